// A producer with a check endpoint, and a consumer with an inbox, both over HTTP; stubs from proto/, PostgreSQL for both.
"use strict";
const crypto = require("node:crypto"), http = require("node:http"), path = require("node:path");
const grpc = require("@grpc/grpc-js"), loader = require("@grpc/proto-loader"), { Client } = require("pg");

const env = (name, otherwise) => process.env[name] || otherwise;
const definition = loader.loadSync("txmsg/v1/message_service.proto", { includeDirs: [path.join(__dirname, "../../../proto")], keepCase: true });
const { MessageService } = grpc.loadPackageDefinition(definition).txmsg.v1;
const TABLES = `SELECT pg_advisory_lock(1); -- others may be starting too
  CREATE TABLE IF NOT EXISTS txmsg_local_tx (id uuid PRIMARY KEY, decision text NOT NULL);
  CREATE TABLE IF NOT EXISTS orders (id uuid PRIMARY KEY, item text NOT NULL);
  CREATE TABLE IF NOT EXISTS inbox (message_id text PRIMARY KEY);
  CREATE TABLE IF NOT EXISTS sold (item text PRIMARY KEY, n int NOT NULL);`;

// One connection for each piece of work; closing it rolls back what was not committed.
async function database(work) {
  const db = new Client(env("DATABASE", "postgres://postgres@127.0.0.1:5432/shop")); // the primary, not a replica
  await db.connect();
  try {
    return await work(db);
  } finally {
    await db.end();
  }
}

// --- the producer ---

function uuid7() {
  const b = crypto.randomBytes(16);
  b.writeUIntBE(Date.now(), 0, 6);
  b[6] = (b[6] & 0x0f) | 0x70;
  b[8] = (b[8] & 0x3f) | 0x80;
  return b.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

async function call(stub, method, request) {
  for (let pause = 100; ; pause *= 4) { // the same id each time, so a repeat is harmless
    try {
      return await new Promise((resolve, reject) =>
        stub[method](request, { deadline: Date.now() + 5000 }, (error, response) => (error ? reject(error) : resolve(response))));
    } catch (error) {
      const again = [grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED, grpc.status.RESOURCE_EXHAUSTED].includes(error.code);
      if (pause > 2000 || !again) throw error;
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }
}

async function order(item, how = "commit", id = uuid7()) {
  const txmsg = new MessageService(env("TXMSG_SERVER", "127.0.0.1:7400"), grpc.credentials.createInsecure());
  const decision = { transaction_id: id, producer: env("PRODUCER", "shop") };
  const message = { topic: env("TOPIC", "orders"), content_type: "text/plain", body: Buffer.from(item) };
  await call(txmsg, "Prepare", { ...decision, messages: [message] });
  console.log(id);
  await database(async (db) => {
    await db.query("BEGIN");
    // First of all: if a check came before us, its row is there, and this fails.
    await db.query("INSERT INTO txmsg_local_tx VALUES ($1, 'COMMITTED')", [id]);
    await db.query("INSERT INTO orders VALUES ($1, $2)", [id, item]);
    if (how === "crash") process.exit(3);
    await db.query(how === "roll-back" ? "ROLLBACK" : "COMMIT"); // if a commit fails send nothing: the check finds out
  });
  if (how === "roll-back") await call(txmsg, "Cancel", decision);
  else if (how !== "lose-confirm") await call(txmsg, "Confirm", decision);
  txmsg.close();
}

// What a check is asked, and what it answers.
async function check(request, body) {
  const { transactionId } = JSON.parse(body);
  try {
    const decision = await database(async (db) => {
      await db.query("SET lock_timeout = '1s'");
      const { rows } = await db.query("INSERT INTO txmsg_local_tx VALUES ($1, 'ROLLED_BACK') ON CONFLICT (id)"
        + " DO UPDATE SET decision = txmsg_local_tx.decision RETURNING decision", [transactionId]);
      return rows[0].decision;
    });
    return [200, { transactionId, decision }];
  } catch (error) {
    if (error.code === "55P03") return [200, { transactionId, decision: "UNKNOWN" }]; // the local transaction still runs
    return [503, {}]; // no answer: asked again
  }
}

// --- the consumer ---

// Standard Webhooks: HMAC-SHA256 over id, time and body; during a change of secrets there are two signatures.
function signed(headers, body) {
  const key = Buffer.from(env("SECRET", "").replace(/^whsec_/, ""), "base64");
  const id = headers["webhook-id"], at = headers["webhook-timestamp"], now = Date.now() / 1000;
  const want = crypto.createHmac("sha256", key).update(`${id}.${at}.`).update(body).digest();
  return Math.abs(now - Number(at)) < 300 && (headers["webhook-signature"] || "").split(" ").some((one) => {
    const got = Buffer.from(one.replace(/^v1,/, ""), "base64");
    return got.length === want.length && crypto.timingSafeEqual(got, want);
  });
}

async function consume(request, body) {
  if (env("SECRET") && !signed(request.headers, body)) return [401, {}];
  if (body.length === 0) return [410, {}]; // a dead letter at once
  await database(async (db) => {
    await db.query("BEGIN");
    const entered = await db.query("INSERT INTO inbox VALUES ($1) ON CONFLICT DO NOTHING", [request.headers["ce-id"]]);
    if (entered.rowCount === 1) // else it came before: nothing to do
      await db.query("INSERT INTO sold VALUES ($1, 1) ON CONFLICT (item) DO UPDATE SET n = sold.n + 1", [body.toString()]);
    await db.query("COMMIT");
  });
  return [200, {}];
}

function serve(handle) {
  http.createServer(async (request, response) => {
    let answer = [500, {}]; // delivered again, asked again
    try {
      const parts = [];
      for await (const part of request) parts.push(part);
      answer = await handle(request, Buffer.concat(parts));
    } catch (error) {
      console.error(error.message);
    }
    response.writeHead(answer[0], { "content-type": "application/json" }).end(JSON.stringify(answer[1]));
  }).listen(Number(env("PORT", "9000")), "127.0.0.1");
}

async function main([what, ...args]) {
  await database((db) => db.query(TABLES));
  if (what === "checks") serve(check);
  else if (what === "consumer") serve(consume);
  else if (what === "order" && args.length) await order(...args);
  else throw new Error("checks | consumer | order ITEM [commit|lose-confirm|roll-back|crash [ID]]");
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
