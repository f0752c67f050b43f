/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lets Debian's xenstored and oxenstored start where no hypervisor is.
 *
 * Preloaded, it stands in for what the daemons ask of Xen's libraries and of dom0's
 * kernel: nobody but clients of the socket ever talks to the store, so each answer
 * only has to be a plausible one. Names and arguments are those of Xen 4.17's
 * xenctrl.h, xenevtchn.h and xengnttab.h.
 *
 * cc -shared -fPIC -o no_hypervisor.so no_hypervisor.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define DOMAIN_INFO 64 /* bytes of xc_dominfo_t that are cleared: no flag is set */

static char something; /* what every handle points to */

/* Domains: whichever number is asked for is there, alive and well. */

void *xc_interface_open(void *log, void *dombuild, unsigned flags)
{
	(void)log, (void)dombuild, (void)flags;
	return &something;
}

int xc_interface_close(void *xc)
{
	(void)xc;
	return 0;
}

int xc_domain_getinfo(void *xc, uint32_t first, unsigned most, void *info)
{
	(void)xc, (void)most;
	memset(info, 0, DOMAIN_INFO);
	memcpy(info, &first, sizeof(first));
	return 1;
}

int xc_domain_getinfolist(void *xc, uint32_t first, unsigned most, void *info)
{
	(void)xc, (void)first, (void)most, (void)info;
	return 0;
}

/* Event channels: one file that never has anything to read. */

void *xenevtchn_open(void *log, unsigned flags)
{
	(void)log, (void)flags;
	return &something;
}

void *xenevtchn_fdopen(void *log, int fd, unsigned flags)
{
	(void)fd;
	return xenevtchn_open(log, flags);
}

int xenevtchn_close(void *channels)
{
	(void)channels;
	return 0;
}

int xenevtchn_fd(void *channels)
{
	static int silent = -1;

	(void)channels;
	if (silent < 0)
		silent = eventfd(0, EFD_CLOEXEC);
	return silent;
}

int xenevtchn_bind_virq(void *channels, unsigned virq)
{
	(void)channels, (void)virq;
	return 1;
}

int xenevtchn_bind_interdomain(void *channels, uint32_t domain, uint32_t port)
{
	(void)channels, (void)domain, (void)port;
	return 2;
}

int xenevtchn_unbind(void *channels, int port)
{
	(void)channels, (void)port;
	return 0;
}

int xenevtchn_notify(void *channels, int port)
{
	(void)channels, (void)port;
	return 0;
}

int xenevtchn_pending(void *channels)
{
	(void)channels;
	errno = EAGAIN;
	return -1;
}

int xenevtchn_unmask(void *channels, int port)
{
	(void)channels, (void)port;
	return 0;
}

/* Granted memory: a fresh page, in which no guest ever writes. */

void *xengnttab_open(void *log, unsigned flags)
{
	(void)log, (void)flags;
	return &something;
}

int xengnttab_close(void *grants)
{
	(void)grants;
	return 0;
}

int xengnttab_set_max_grants(void *grants, uint32_t most)
{
	(void)grants, (void)most;
	return 0;
}

void *xengnttab_map_grant_ref(void *grants, uint32_t domain, uint32_t ref, int prot)
{
	(void)grants, (void)domain, (void)ref, (void)prot;
	return mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

int xengnttab_unmap(void *grants, void *start, uint32_t pages)
{
	(void)grants;
	return munmap(start, (size_t)pages * PAGE);
}

/* The two files with which dom0's kernel introduces itself to the store. */

static int kernel_file(const char *path)
{
	int fd;

	if (strcmp(path, "/proc/xen/xsd_port") == 0) {
		fd = memfd_create("xsd_port", 0);
		if (fd >= 0 && pwrite(fd, "1", 1, 0) == 1)
			return fd;
	} else if (strcmp(path, "/proc/xen/xsd_kva") == 0) {
		fd = memfd_create("xsd_kva", 0);
		if (fd >= 0 && ftruncate(fd, PAGE) == 0)
			return fd;
	}
	return -1;
}

static int open_with(const char *name, const char *path, int flags, mode_t mode)
{
	int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
	int fd = kernel_file(path);

	return fd >= 0 ? fd : next(path, flags, mode);
}

#define STAND_IN(name)                                      \
	int name(const char *path, int flags, ...)          \
	{                                                   \
		va_list rest;                               \
		mode_t mode;                                \
                                                            \
		va_start(rest, flags);                      \
		mode = (mode_t)va_arg(rest, int);           \
		va_end(rest);                               \
		return open_with(#name, path, flags, mode); \
	}

STAND_IN(open)
STAND_IN(open64)
