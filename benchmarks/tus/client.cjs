// Every file of a folder with tus-js-client, four at once: client.cjs PACKAGES URL FOLDER
const fs = require('node:fs')
const path = require('node:path')

const [packages, endpoint, folder] = process.argv.slice(2)
const tus = require(require.resolve('tus-js-client', { paths: [packages] }))

function send(file) {
  return new Promise((resolve, reject) => {
    const upload = new tus.Upload(fs.createReadStream(file), {
      endpoint,
      uploadSize: fs.statSync(file).size,
      metadata: { filename: path.basename(file) },
      onError: reject,
      onSuccess: resolve,
    })
    upload.start()
  })
}

async function worker(files) {
  while (files.length > 0) await send(files.pop())
}

const files = fs.readdirSync(folder).map((name) => path.join(folder, name))
Promise.all([1, 2, 3, 4].map(() => worker(files))).catch((error) => {
  console.error(error)
  process.exit(1)
})
