// The browser that tests and screenshots use: the machine's own Chromium.
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
const elsewhere = ["/Applications/Chromium.app/Contents/MacOS/Chromium", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"];

/** Path of the browser: MILLRACE_CHROMIUM, or the first found; null if there is none. */
export function findChromium() {
  if (process.env.MILLRACE_CHROMIUM) return process.env.MILLRACE_CHROMIUM;
  const inPath = (process.env.PATH ?? "").split(delimiter).flatMap((dir) => names.map((name) => join(dir, name)));
  for (const path of [...inPath, ...elsewhere]) {
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // not there
    }
  }
  return null;
}

/** Options for Playwright. A container has no user namespaces and little shared memory. */
export function launchOptions() {
  const executablePath = findChromium();
  if (executablePath === null) throw new Error("there is no Chromium: install it (Debian: apt-get install chromium) or set MILLRACE_CHROMIUM to its path");
  return { executablePath, headless: true, args: ["--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"] };
}
