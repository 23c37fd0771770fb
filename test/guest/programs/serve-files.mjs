// A web server of the files below a folder, with ranges and entity tags: `node serve-files.mjs FOLDER`. Says
// `serving http://127.0.0.1:PORT` once it does.
import { createReadStream, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';

const [folder] = process.argv.slice(2);

const server = createServer((request, response) => {
  const path = join(folder, new URL(request.url, 'http://host').pathname);
  let stats;
  try {
    stats = statSync(path);
  } catch {
    response.writeHead(404).end();
    return;
  }
  const { size, mtimeMs } = stats;
  const etag = `"${size}-${Math.floor(mtimeMs)}"`;
  const { range, 'if-range': ifRange } = request.headers;
  const asked = ifRange === undefined || ifRange === etag ? /^bytes=(\d+)-$/.exec(range ?? '') : null;
  const start = asked === null ? 0 : Math.min(Number(asked[1]), size);
  response.writeHead(start > 0 ? 206 : 200, {
    etag,
    'accept-ranges': 'bytes',
    'content-length': size - start,
    ...(start > 0 && { 'content-range': `bytes ${start}-${size - 1}/${size}` }),
  });
  createReadStream(path, { start, highWaterMark: 2 ** 20 }).pipe(response);
});
server.listen(0, '127.0.0.1', () => console.log(`serving http://127.0.0.1:${server.address().port}`));
