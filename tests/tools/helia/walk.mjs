// Walking DAGs, with many blocks asked for at a time, and reading what files hold.

import { createHash } from 'node:crypto'
import * as dagPb from '@ipld/dag-pb'
import { exporter, recursive } from 'ipfs-unixfs-exporter'
import * as raw from 'multiformats/codecs/raw'
import { linksOf, whole } from './content.mjs'

/**
 * Gets every block below a root once and returns how many there were, and how many of them were not in the store.
 * `visit` sees each.
 */
export async function walk (store, root, { signal, atOnce = 64, visit = () => {} } = {}) {
  const seen = new Set([root.toString()])
  const waiting = [root]
  const count = { blocks: 0, bytes: 0, received_blocks: 0, received_bytes: 0 }
  const one = async cid => {
    const held = await store.has(cid, { signal })
    const bytes = await whole(store.get(cid, { signal }))
    count.blocks += 1
    count.bytes += bytes.length
    if (!held) {
      count.received_blocks += 1
      count.received_bytes += bytes.length
    }
    visit(cid, bytes)
    const links = linksOf(cid, bytes)
    // The first link is to be taken next.
    for (const link of links.reverse()) {
      const name = link.toString()
      if (!seen.has(name)) {
        seen.add(name)
        waiting.push(link)
      }
    }
  }
  const running = new Set()
  let failed
  while (failed == null && (waiting.length > 0 || running.size > 0)) {
    while (waiting.length > 0 && running.size < atOnce) {
      const cid = waiting.pop()
      const task = one(cid)
        .catch(error => { failed ??= new Error(`${cid}: ${reason(error)}`) })
        .finally(() => running.delete(task))
      running.add(task)
    }
    await Promise.race(running)
  }
  if (failed != null) {
    throw failed
  }
  return count
}

/**
 * The SHA-256 over the contents of all files below a root, in the order of their paths, and their number. None when the
 * root is neither dag-pb nor raw.
 */
export async function readFiles (store, root, { signal } = {}) {
  if (root.code !== dagPb.code && root.code !== raw.code) {
    return { files: null, content_bytes: null, content_sha256: null }
  }
  const hash = createHash('sha256')
  let bytes = 0
  let files = 0
  const take = async cid => {
    const entry = await exporter(cid.toString(), store, { signal })
    if (entry.type === 'directory') {
      return entry
    }
    files += 1
    for await (const piece of entry.content({ signal })) {
      hash.update(piece)
      bytes += piece.length
    }
  }
  if (await take(root) != null) {
    const found = []
    // A HAMT hands its entries out in the order of their hashes.
    for await (const { path, cid } of recursive(root, store, { signal })) {
      found.push({ path: Buffer.from(path), cid })
    }
    found.sort((a, b) => Buffer.compare(a.path, b.path))
    for (const { cid } of found) {
      await take(cid)
    }
  }
  return { files, content_bytes: bytes, content_sha256: hash.digest('hex') }
}

/** The message of an error and of those that it was made of. */
export function reason (error) {
  const inner = [...(error.errors ?? []), ...(error.cause != null ? [error.cause] : [])]
  return [error.message || error.name, ...inner.map(reason)].join(': ')
}
