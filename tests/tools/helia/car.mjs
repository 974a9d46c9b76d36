// CAR files, made and read by @ipld/car. `car.mjs make REQUEST` (JSON: what content.mjs makes, and `out`, the file to
// write) answers with a JSON line; `car.mjs read` takes a CAR on stdin and answers with one, also when it is broken.

import { createWriteStream } from 'node:fs'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { CarBlockIterator, CarWriter } from '@ipld/car'
import { MemoryBlockstore } from 'blockstore-core'
import { equals } from 'multiformats/bytes'
import { codecs, hashers, linksOf, make } from './content.mjs'
import { reason, walk } from './walk.mjs'

async function write ({ out, ...request }) {
  const store = new MemoryBlockstore()
  const root = await make(store, request)
  const { writer, out: stream } = CarWriter.create([root])
  const written = pipeline(Readable.from(stream), createWriteStream(out))
  const order = []
  // One at a time: depth-first, parents before children, each block once.
  const { blocks, bytes } = await walk(store, root, { atOnce: 1, visit: (cid, bytes) => order.push({ cid, bytes }) })
  for (const block of order) {
    await writer.put(block)
  }
  await writer.close()
  await written
  return { cid: root.toString(), blocks, bytes }
}

/** Whether the hash is right; none when the hash is not known here. */
async function isRight (cid, bytes) {
  const hasher = hashers.find(hasher => hasher.code === cid.multihash.code)
  if (hasher == null) {
    return undefined
  }
  const digest = await hasher.digest(bytes)
  return equals(digest.digest, cid.multihash.digest)
}

async function read (input) {
  const report = { version: null, roots: [], blocks: 0, bytes: 0, cids: [], wrong: [], unchecked: [], missing: [], error: null }
  const linked = new Map()
  const found = new Set()
  try {
    const blocks = await CarBlockIterator.fromIterable(input)
    report.version = blocks.version
    const roots = await blocks.getRoots()
    report.roots = roots.map(String)
    roots.forEach(root => linked.set(root.toString(), root))
    for await (const { cid, bytes } of blocks) {
      report.blocks += 1
      report.bytes += bytes.length
      report.cids.push(cid.toString())
      found.add(cid.toString())
      const right = await isRight(cid, bytes)
      if (right === undefined) {
        report.unchecked.push(cid.toString())
      } else if (!right) {
        report.wrong.push(cid.toString())
        continue
      }
      if (codecs.some(codec => codec.code === cid.code)) {
        linksOf(cid, bytes).forEach(link => linked.set(link.toString(), link))
      }
    }
  } catch (error) {
    report.error = reason(error)
  }
  // A CID with the identity hash holds its block itself.
  report.missing = [...linked].filter(([name, cid]) => !found.has(name) && cid.multihash.code !== 0).map(([name]) => name)
  return report
}

const [task, request] = process.argv.slice(2)
let answer
if (task === 'make') {
  answer = await write(JSON.parse(request))
} else if (task === 'read') {
  answer = await read(process.stdin)
} else {
  throw new Error('usage: car.mjs make REQUEST | car.mjs read < FILE')
}
process.stdout.write(JSON.stringify(answer) + '\n')
