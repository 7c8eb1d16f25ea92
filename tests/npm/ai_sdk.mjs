// node ai_sdk.mjs BASE_URL FOLDER OPTIONS
// Edits `photo.png` of the folder with Vercel's AI SDK; prints what it returns as JSON.
import fs from "node:fs";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateImage } from "ai";

const [baseURL, folder, options] = process.argv.slice(2);
const { images = 1, masked, model = "gpt-image-1", n, ...fields } = JSON.parse(options);
const provider = createOpenAICompatible({ name: "i2ii", baseURL, apiKey: "none" });
const read = (name) => fs.readFileSync(`${folder}/${name}`);

const prompt = { text: "sepia", images: Array(images).fill("photo.png").map(read) };
if (masked) prompt.mask = read("mask.png");
try {
    const answer = await generateImage({
        model: provider.imageModel(model),
        prompt,
        n,
        maxRetries: 0,
        providerOptions: { i2ii: fields },
    });
    console.log(JSON.stringify({ made: answer.images.map((each) => each.base64), types: [] }));
} catch (error) {
    const { code, param, type } = error.data?.error ?? {};
    const { statusCode: status, message } = error;
    console.log(JSON.stringify({ error: { status, code, param, type, message } }));
}
