import { defineConfig } from "vitest/config";

export default defineConfig({
  test: { include: ["test/**/*.test.{ts,tsx}"], exclude: ["test/browser/**"], pool: "threads", testTimeout: 180_000 },
});
