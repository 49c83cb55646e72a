// The tus project's own server for Node, with its own file store: server.mjs PACKAGES HOST PORT FOLDER
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const [packages, host, port, folder] = process.argv.slice(2)
const require = createRequire(`${packages}/`)
const load = (name) => import(pathToFileURL(require.resolve(name)))
const { Server } = await load('@tus/server')
const { FileStore } = await load('@tus/file-store')

const server = new Server({ path: '/files', datastore: new FileStore({ directory: folder }) })
server.listen({ host, port: Number(port) }, () => console.log('listening'))
