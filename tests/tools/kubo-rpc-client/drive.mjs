// Drives every call of daily work through an address that speaks Kubo's RPC, and prints what came of each as a line of JSON.
//
//   node drive.mjs http://127.0.0.1:9095

import { create } from 'kubo-rpc-client'

const ipfs = create({ url: process.argv[2] })

const plain = (_, value) => {
  if (typeof value === 'bigint') return Number(value)
  if (value instanceof Uint8Array) return Buffer.from(value).toString('base64')
  // What a CID becomes in JSON.
  if (typeof value?.['/'] === 'string' && Object.keys(value).length === 1) return value['/']
  return value
}
const say = (name, value) => console.log(JSON.stringify({ name, value: value ?? null }, plain))

const all = async (source) => {
  const items = []
  for await (const item of source) items.push(item)
  return items
}
const bytes = async (source) => Buffer.concat(await all(source))
const failure = async (work) => {
  try {
    await work()
    return null
  } catch (error) {
    return { name: error.name, message: error.message }
  }
}
const entry = (added) => ({ path: added.path, cid: added.cid.toString(), size: added.size })

// Who answers.
const version = await ipfs.version()
say('version', version.version)
const id = await ipfs.id()
say('id', id.id.toString())

// Content in.
const hello = await ipfs.add('hello world\n')
say('add', entry(hello))
const named = await ipfs.add({ path: 'note.txt', content: 'a note' }, { cidVersion: 1, rawLeaves: true })
say('add-named', entry(named))
const progress = []
const tree = await all(ipfs.addAll([
  { path: 'tree/a.txt', content: 'a' },
  { path: 'tree/sub/b.txt', content: 'b' },
  { path: 'tree/large', content: new Uint8Array(600_000).fill(7) }
], { progress: (bytes, path) => progress.push([path, bytes]) }))
say('add-tree', tree.map(entry))
say('add-progress', progress)
const wrapped = await all(ipfs.addAll([
  { path: 'x', content: 'x' },
  { path: 'y', content: 'y' }
], { wrapWithDirectory: true }))
say('add-wrapped', wrapped.map(entry))
const loose = await all(ipfs.addAll([{ path: 'one', content: 'first root' }, { path: 'two', content: 'second root' }]))
say('add-two-roots', loose.map(entry))
say('add-only-hash', entry(await ipfs.add('never stored', { onlyHash: true })))
say('add-unpinned', entry(await ipfs.add('stored and not pinned', { pin: false })))
say('add-failed', await failure(() => ipfs.add('x', { chunker: 'size-0' })))

// Content out.
const root = tree[tree.length - 1].cid
say('cat', (await bytes(ipfs.cat(hello.cid))).toString())
say('cat-range', (await bytes(ipfs.cat(hello.cid, { offset: 6, length: 5 }))).toString())
say('cat-path', (await bytes(ipfs.cat(`/ipfs/${root}/sub/b.txt`))).toString())
say('get', (await bytes(ipfs.get(root))).length)
say('get-gzip', (await bytes(ipfs.get(hello.cid, { compress: true, compressionLevel: 9 }))).subarray(0, 2).toString('hex'))
say('ls', (await all(ipfs.ls(root))).map(({ name, cid, type, size }) => ({ name, cid: cid.toString(), type, size })))
say('cat-missing', await failure(() => bytes(ipfs.cat(`/ipfs/${root}/nothing`))))
say('resolve', await ipfs.resolve(`/ipfs/${root}/sub/b.txt`))
say('refs', (await all(ipfs.refs(root.toString(), { recursive: true, unique: true }))).length)

// Pins.
say('pin-ls', (await all(ipfs.pin.ls())).map(({ cid, type }) => ({ cid: cid.toString(), type })))
say('pin-ls-one', (await all(ipfs.pin.ls({ paths: [hello.cid] }))).map(({ cid, type }) => ({ cid: cid.toString(), type })))
say('pin-ls-direct', (await all(ipfs.pin.ls({ type: 'direct' }))).length)
say('pin-rm', (await ipfs.pin.rm(hello.cid)).toString())
say('pin-ls-gone', await failure(() => all(ipfs.pin.ls({ paths: [hello.cid] }))))
say('pin-rm-gone', await failure(() => ipfs.pin.rm(hello.cid)))
say('pin-add', (await ipfs.pin.add(hello.cid)).toString())
say('pin-add-path', (await ipfs.pin.add(`/ipfs/${root}/sub/b.txt`)).toString())
say('pin-add-all', (await all(ipfs.pin.addAll([{ path: wrapped[0].cid, recursive: false }, wrapped[1].cid]))).map(String))
say('pin-rm-all', (await all(ipfs.pin.rmAll([wrapped[0].cid, wrapped[1].cid]))).map(String))

// Blocks and values.
const block = await ipfs.block.put(new TextEncoder().encode('a block'))
say('block-put', block.toString())
say('block-put-pinned', (await ipfs.block.put(new TextEncoder().encode('a pinned block'), { pin: true })).toString())
say('block-get', Buffer.from(await ipfs.block.get(block)).toString())
say('block-stat', await ipfs.block.stat(block))
const value = await ipfs.dag.put({ hello: 'world', list: [1, 2, { deep: true }], link: block })
say('dag-put', value.toString())
say('dag-put-pinned', (await ipfs.dag.put({ pinned: true }, { pin: true })).toString())
say('dag-get', (await ipfs.dag.get(value)).value)
say('dag-get-path', (await ipfs.dag.get(value, { path: '/list/2/deep' })).value)
say('dag-resolve', await ipfs.dag.resolve(value, { path: '/link' }))
const car = await all(ipfs.dag.export(root))
say('dag-export', Buffer.concat(car).length)
say('dag-import', (await all(ipfs.dag.import((async function * () { yield * car })(), { pinRoots: true })))
  .map(({ root }) => ({ cid: root.cid.toString(), error: root.pinErrorMsg })))

// The repository and the network.
say('repo-stat', await ipfs.repo.stat())
say('repo-version', await ipfs.repo.version())
say('stats-repo', (await ipfs.stats.repo()).numObjects)
say('bitswap-stat', await ipfs.bitswap.stat())
// Connections are listed, and two that call each other at once have two.
say('swarm-peers', new Set((await ipfs.swarm.peers()).map((found) => found.peer.toString())).size)
say('swarm-local-addrs', (await ipfs.swarm.localAddrs()).map(String))

// What a node may not have.
say('files-ls', await failure(() => all(ipfs.files.ls('/'))))
