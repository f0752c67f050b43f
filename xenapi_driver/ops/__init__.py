# SPDX-License-Identifier: Apache-2.0
"""What Nova asks for: one module a family of verbs; they do not import each other."""
