import createClient from "openapi-fetch";
import type { paths } from "./api.js";

const headers = { authorization: `Bearer ${process.env.API_KEY}` };
const client = createClient<paths>({ baseUrl: process.env.BASE_URL, headers });
const posted = await client.POST("/v1/tasks", { body: { model: "flux-2-pro", prompt: "a red fox" } });
if (posted.data === undefined) throw new Error(JSON.stringify(posted.error));
const path = { task_id: posted.data.id };
let task = posted.data;
while (task.status !== "stored" && task.status !== "failed") {
  const answer = await client.GET("/v1/tasks/{task_id}", { params: { path, header: { prefer: "wait=30" } } });
  if (answer.data === undefined) throw new Error(JSON.stringify(answer.error));
  task = answer.data;
}
const image = await client.GET("/v1/tasks/{task_id}/image", { params: { path }, parseAs: "arrayBuffer" });
if (image.data === undefined) throw new Error(JSON.stringify(image.error));
const unknown = await client.GET("/v1/tasks/{task_id}", { params: { path: { task_id: "task_0" } } });
console.log(JSON.stringify({ status: task.status, bytes: image.data.byteLength > 0, code: unknown.error?.code }));
