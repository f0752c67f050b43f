// SPDX-License-Identifier: Apache-2.0
// Keep a pool's objects in step with xen-api, and do as told on standard input.
//
//     node mirror.mjs URL
//
// Each line in is {"do": NAME, "with": [...]}; each line out {"answer": ...} or
// {"refused": [code, ...params]}. The first line out says that all is fetched.

import { createHash } from 'node:crypto'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import { createClient } from 'xen-api'

const xapi = createClient({
  url: process.argv[2],
  auth: { user: 'root', password: 'secret' },
  allowUnauthorized: true,
  debounce: 20,
})

const problems = []
xapi.on('eventFetchingError', error => problems.push(String(error)))
// It tells what went wrong between the lines.
console.warn = (...words) => problems.push(words.map(String).join(' '))

const digest = data => createHash('sha256').update(data).digest('hex')

const doings = {
  // every object it holds, by type and reference, after all events up to now
  async objects() {
    await xapi.barrier()
    const held = {}
    for (const object of Object.values(xapi.objects.all)) {
      held[object.$type] ??= {}
      held[object.$type][object.$ref] = { ...object }
    }
    return held
  },
  call: (method, ...args) => xapi.call(method, ...args),
  callAsync: (method, ...args) => xapi.callAsync(method, ...args),
  // a task that somebody else started
  watchTask: ref => xapi.watchTask(ref),
  // what the linked getters of a VM lead to
  async linked(ref) {
    const vm = await xapi.barrier(ref)
    return {
      disks: vm.$VBDs.map(vbd => vbd.$VDI.name_label),
      networks: vm.$VIFs.map(vif => vif.$network.bridge),
      host: vm.$resident_on?.name_label,
      pool: vm.$pool.$ref,
    }
  },
  async rename(ref, name) {
    await (await xapi.barrier(ref)).set_name_label(name)
  },
  async describe(ref, key, value) {
    await (await xapi.barrier(ref)).update_other_config(key, value)
  },
  async upload(vdi, byte, length) {
    const data = Buffer.alloc(length, byte)
    await xapi.putResource(data, '/import_raw_vdi/', { query: { vdi, format: 'raw' }, task: true })
    return digest(data)
  },
  async uploadStream(vdi, byte, length) {
    const data = Buffer.alloc(length, byte)
    const body = Readable.from([data])
    body.length = length
    await xapi.putResource(body, '/import_raw_vdi/', { query: { vdi, format: 'raw' }, task: true })
    return digest(data)
  },
  async download(vdi) {
    const query = { vdi, format: 'raw' }
    const response = await xapi.getResource('/export_raw_vdi/', { query, task: true })
    const hash = createHash('sha256')
    for await (const part of response.body) hash.update(part)
    await response.task
    return hash.digest('hex')
  },
  problems: () => problems,
}

await xapi.connect()
await xapi.objectsFetched
const say = line => process.stdout.write(JSON.stringify(line) + '\n')
say({ answer: { types: xapi._types ?? [] } })

for await (const line of createInterface({ input: process.stdin })) {
  const told = JSON.parse(line)
  try {
    say({ answer: (await doings[told.do](...(told.with ?? []))) ?? null })
  } catch (error) {
    say({ refused: error.code ? [error.code, ...error.params] : [String(error.stack)] })
  }
}
await xapi.disconnect()
process.exit(0)
