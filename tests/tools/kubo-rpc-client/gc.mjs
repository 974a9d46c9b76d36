// Collects garbage, and reads something that is pinned.
//
//   node gc.mjs http://127.0.0.1:9095

import { create } from 'kubo-rpc-client'

const ipfs = create({ url: process.argv[2] })
const say = (name, value) => console.log(JSON.stringify({ name, value }))

let keys = 0
for await (const { cid, err } of ipfs.repo.gc()) {
  if (err != null) throw err
  if (cid != null) keys += 1
}
say('repo-gc', keys)
const pieces = []
for await (const piece of ipfs.cat('QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o')) pieces.push(piece)
say('cat-after-gc', Buffer.concat(pieces).toString())
