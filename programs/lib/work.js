// Deterministic work that uses V8's heap, native buffers, zlib, crypto and worker threads.
'use strict';
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const zlib = require('zlib');
const crypto = require('crypto');

function random(seed) {
  return () => (seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff) >> 8;
}

function work(seed, items) {
  const next = random(seed);
  const map = new Map();
  for (let i = 0; i < items; i++) {
    map.set(`key ${next() % items}`, { i, text: 'abc'.repeat(next() % 40), list: [next() % 9, next() % 9] });
  }
  const text = JSON.stringify([...map.entries()].sort((a, b) => (a[0] < b[0] ? -1 : 1)));
  const packed = zlib.deflateSync(Buffer.from(text), { level: 6 });
  const same = JSON.parse(zlib.inflateSync(packed).toString()).length === map.size;
  const buffers = [];
  for (let i = 0; i < 2000; i++) buffers.push(Buffer.alloc(64 + (next() % 8192), i));
  const hash = crypto.createHash('sha256').update(text).update(Buffer.concat(buffers)).digest('hex');
  return `${seed} ${map.size} ${same} ${hash}`;
}

if (isMainThread) {
  console.log(work(1, 60000));
  const results = [];
  let started = 0;
  const start = (seed) => {
    const worker = new Worker(__filename, { workerData: { seed, items: 8000 } });
    worker.on('message', (line) => results.push(line));
    worker.on('error', (error) => { throw error; });
    worker.on('exit', () => { if (started < 8) start(10 + started++); });
  };
  while (started < 3) start(10 + started++);
  // A last message may come after the exit of its worker.
  process.on('exit', () => {
    results.sort().forEach((line) => console.log(line));
    console.log(`${results.length} workers`);
  });
} else {
  parentPort.postMessage(work(workerData.seed, workerData.items));
}
