// What a program that uses ioredis does: ioredis.js plain|cluster PORT. Ends with 0 if all answers are right.
const assert = require("node:assert/strict");
const Redis = require("ioredis");

const [mode, port] = [process.argv[2], Number(process.argv[3])];
const redis =
  mode === "cluster" ? new Redis.Cluster([{ host: "127.0.0.1", port }]) : new Redis({ host: "127.0.0.1", port });
const prefix = `js:${mode}:${port}:`;
const key = (name) => prefix + name;

async function main() {
  assert.equal(await redis.ping(), "PONG");
  const all = [...Array(300).keys()];
  await Promise.all(all.map(async (i) => assert.equal(await redis.set(key(i), `value ${i}`), "OK")));
  await Promise.all(all.map(async (i) => assert.equal(await redis.get(key(i)), `value ${i}`)));
  assert.equal(await redis.get(key("missing")), null);
  assert.equal(await redis.set(key(0), "x", "NX"), null);

  const tag = `{${prefix}}`;
  const pipeline = redis.pipeline();
  for (let i = 0; i < 300; i++) pipeline.incr(`${tag}n${i % 30}`);
  const replies = await pipeline.exec();
  assert.deepEqual(replies, all.map((i) => [null, Math.floor(i / 30) + 1]));

  assert.equal(await redis.set(key("short"), "v", "EX", 1000), "OK");
  const ttl = await redis.ttl(key("short"));
  assert.ok(ttl > 990 && ttl <= 1000, `${ttl}`);
  assert.equal(await redis.set(key("shorter"), "v", "PX", 1), "OK");
  const deadline = Date.now() + 30000;
  while ((await redis.get(key("shorter"))) !== null) assert.ok(Date.now() < deadline, "it does not expire");

  assert.equal(await redis.mset(`${tag}a`, "1", `${tag}b`, "2"), "OK");
  assert.deepEqual(await redis.mget(`${tag}a`, `${tag}none`, `${tag}b`), ["1", null, "2"]);
  assert.equal(await redis.rename(`${tag}a`, `${tag}c`), "OK");
  assert.equal(await redis.del(`${tag}a`, `${tag}b`, `${tag}c`), 2);
  assert.deepEqual(await redis.getBuffer(key(1)), Buffer.from("value 1"));
  await assert.rejects(redis.incr(key(1)), /not an integer/);
  await assert.rejects(redis.call("NOSUCH", key(1)), /unknown command/);

  const found = [];
  for (const node of mode === "cluster" ? redis.nodes("master") : [redis]) {
    for await (const keys of node.scanStream({ match: `${prefix}[0-9]*`, count: 50 })) found.push(...keys);
  }
  assert.equal(found.length, new Set(found).size);
  assert.deepEqual(found.sort(), all.map(key).sort());
}

main().then(
  () => {
    console.log("ok");
    redis.disconnect();
  },
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
