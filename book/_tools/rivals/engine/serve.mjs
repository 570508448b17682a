// llama.cpp behind OpenAI's protocol, by way of node-llama-cpp's prebuilt binary.
//
//     node serve.mjs MODEL.gguf PORT SLOTS CONTEXT
//
// POST /v1/completions with {"prompt": text or [ids], "max_tokens": n, "stream": true}
// answers with lines "data: {...}" and at the end "data: [DONE]". llama.cpp batches the slots
// continuously; requests beyond them wait. Greedy; one thread; the end of a text is not
// looked for, so that every request costs what it asks for. GET /usage says how much
// processor time the process has spent. It ends when its standard input does.
import http from "node:http";
import {getLlama} from "node-llama-cpp";

const [file, port, slots, contextSize] = process.argv.slice(2);
const llama = await getLlama({gpu: false, build: "never", logLevel: "error", maxThreads: 1});
const model = await llama.loadModel({modelPath: file});
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

const server = http.createServer((request, response) => {
    if (request.url === "/usage") {
        const {user, system} = process.cpuUsage();
        response.end(JSON.stringify({cpu_s: (user + system) / 1e6}));
    } else {
        complete(request, response).catch((error) => response.destroy(error));
    }
});
server.on("error", (error) => { console.log(`error ${error.code}`); process.exit(1); });
server.listen(Number(port), "127.0.0.1", () => console.log(`port ${server.address().port}`));
process.stdin.resume().on("end", () => process.exit(0));
