// node openai.mjs BASE_URL FOLDER OPTIONS
// Edits `photo.png` of the folder with the client of OpenAI; prints what it returns as JSON.
import fs from "node:fs";
import OpenAI, { toFile } from "openai";

const [baseURL, folder, options] = process.argv.slice(2);
const { images = 1, masked, ...fields } = JSON.parse(options);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const read = (name) =>
    toFile(fs.createReadStream(`${folder}/${name}`), name, { type: "image/png" });

const pictures = await Promise.all(Array(images).fill("photo.png").map(read));
if (masked) fields.mask = await read("mask.png");
const image = images === 1 ? pictures[0] : pictures;
try {
    const answer = await client.images.edit({ image, prompt: "sepia", ...fields });
    const types = [], made = [];
    if (fields.stream) {
        for await (const event of answer) {
            types.push(event.type);
            made.push(event.b64_json);
        }
    } else {
        made.push(...answer.data.map((each) => each.b64_json));
    }
    console.log(JSON.stringify({ made, types }));
} catch (error) {
    const { status, code, param, type, message, requestID } = error;
    console.log(JSON.stringify({ error: { status, code, param, type, message, requestID } }));
}
