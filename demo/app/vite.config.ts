import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const sdk = (file: string): string => fileURLToPath(new URL(`../../clientsdk/typescript/dist/${file}`, import.meta.url));

// A server of `millrace dev` to work against: MILLRACE=http://127.0.0.1:8080 npm run dev
const millrace = process.env["MILLRACE"] ?? "http://127.0.0.1:8080";

export default defineConfig({
  resolve: {
    // The SDK of this repository, as built; an app of one's own installs it.
    alias: [
      { find: /^@millrace\/client$/, replacement: sdk("index.js") },
      { find: /^@millrace\/client\/react$/, replacement: sdk("react.js") },
    ],
    dedupe: ["react", "react-dom"],
  },
  worker: { format: "es" },
  build: { outDir: "../web/app", emptyOutDir: true, target: "es2022", assetsInlineLimit: 0, chunkSizeWarningLimit: 1000, rolldownOptions: { checks: { pluginTimings: false } } },
  server: {
    fs: { allow: ["../.."] },
    proxy: {
      "/sync": { target: millrace, ws: true, changeOrigin: true },
      "/demo": { target: millrace, changeOrigin: true },
      "/status": { target: millrace, changeOrigin: true },
    },
  },
});
