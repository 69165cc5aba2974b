/* What the server is asked. */

/** The answer; an error has the server's sentence, and in `told` whatever else it said. */
export async function ask(path, options) {
  const answer = await fetch(path, options).catch(() => {
    throw new Error("The server does not answer. Is `slimp app` still running?");
  });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw Object.assign(new Error(told.error ?? `The server refused ${path} (${answer.status}).`), { told });
}

export const json = async (path, options) => (await ask(path, options)).json();

export const numbers = async (path, Type) => new Type(await (await ask(path)).arrayBuffer());

export const thumbnail = (index, size) => `/api/thumbnail/${index}?size=${size}`;

const CHUNK = 10_000;

/** [image, lesion, patient] ids of images. */
export async function idsOf(indices) {
  const rows = [];
  for (let start = 0; start < indices.length; start += CHUNK) {
    const body = JSON.stringify({ indices: Array.from(indices.slice(start, start + CHUNK)) });
    const headers = { "Content-Type": "application/json" };
    const part = (await json("/api/ids", { method: "POST", headers, body })).rows;
    for (const row of part) rows.push(row);
  }
  return rows;
}
