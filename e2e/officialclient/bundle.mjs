// Makes a script for browsers of page.mjs: node bundle.mjs FILE.
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = (name) => fileURLToPath(new URL(name, import.meta.url));

await build({ entryPoints: [here('page.mjs')], bundle: true, format: 'esm', outfile: process.argv[2], logLevel: 'error', preserveSymlinks: true });
