// llama.cpp behind OpenAI's protocol, by way of node-llama-cpp's prebuilt binary.
//
//     node serve.mjs MODEL.gguf PORT SLOTS CONTEXT
//
// POST /v1/completions with {"prompt": text or [ids], "max_tokens": n, "stream": true}
// answers with lines "data: {...}" and at the end "data: [DONE]". llama.cpp batches the slots
// continuously; requests beyond them wait. Greedy; one thread; the end of a text is not
// looked for, so that every request costs what it asks for. GET /usage says how much
// processor time the process has spent. It ends when its standard input does. The first line
// that it prints is "port N", or "error" and a sentence that says why it cannot start.
import fs from "node:fs";
import http from "node:http";

const [file, port, slots, contextSize] = process.argv.slice(2);
const fail = (why) => { console.log(`error ${why}`); process.exit(1); };
const unless = (done, why) => done.catch((error) => fail(`${why}: ${error.message}`));
if (!fs.statSync(file ?? "", {throwIfNoEntry: false})?.isFile())
    fail(`no model file at "${file ?? ""}": name MODEL.gguf PORT SLOTS CONTEXT`);
const server = http.createServer((request, response) => answer(request, response));
server.on("error", ({code, message}) => fail(code === "EADDRINUSE"
    ? `port ${port} is taken: name another, or 0 for any that is free` : message));
let answer = (request, response) => response.writeHead(503).end("the model is not loaded yet");
const listens = new Promise((ready) => server.listen(Number(port), "127.0.0.1", ready));
await unless(listens, `no port ${port}`);

const set_up = "node-llama-cpp is not installed (python3 book/_tools/setup.py engine)";
const {getLlama} = await unless(import("node-llama-cpp"), set_up);
const llama = await getLlama({gpu: false, build: "never", logLevel: "error", maxThreads: 1});
const model = await unless(llama.loadModel({modelPath: file}), `${file} is no whole GGUF model`);
const context = await model.createContext({
    sequences: Number(slots), contextSize: Number(contextSize), threads: 1,
    flashAttention: false, batching: {dispatchSchedule: "nextCycle"},
});
const free = Array.from({length: Number(slots)}, () => context.getSequence());
const waiting = [];
const take = () => free.pop() ?? new Promise((got) => waiting.push(got));
const give = (slot) => waiting.length ? waiting.shift()(slot) : free.push(slot);

async function complete(request, response) {
    let body = "";
    for await (const part of request) body += part;
    const {prompt: asked, max_tokens} = JSON.parse(body);
    const prompt = typeof asked === "string" ? model.tokenize(asked) : asked;
    if (prompt.length + max_tokens > Number(contextSize)) {
        response.writeHead(400).end(`a request has room for ${contextSize} tokens`);
        return;
    }
    const slot = await take();
    try {
        await slot.clearHistory();
        let made = 0;
        response.writeHead(200, {"Content-Type": "text/event-stream"});
        for await (const token of slot.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
            const choice = {text: model.detokenize([token]), token};
            response.write(`data: ${JSON.stringify({choices: [choice]})}\n\n`);
            if (++made === max_tokens || response.destroyed) break;
        }
        response.end("data: [DONE]\n\n");
    } finally {
        give(slot);
    }
}

answer = (request, response) => {
    if (request.url === "/usage") {
        const {user, system} = process.cpuUsage();
        response.end(JSON.stringify({cpu_s: (user + system) / 1e6}));
    } else {
        complete(request, response).catch((error) => response.destroy(error));
    }
};
console.log(`port ${server.address().port}`);
process.stdin.resume().on("end", () => process.exit(0));
