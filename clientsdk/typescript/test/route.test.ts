import { expect, it } from "vitest";
import { PROBE_AFTER, Route } from "../src/engine/route.js";

it("two WebSockets that do not open make way for HTTP, and take turns with it while nothing gets through", () => {
  const r = new Route(null);
  const tried: string[] = [];
  for (let i = 0; i < 7; i++) {
    const t = r.next(0);
    tried.push(t);
    r.noted(t, false, 0);
  }
  expect(tried).toEqual(["websocket", "websocket", "http", "websocket", "http", "websocket", "http"]);
});

it("HTTP that gets through is kept for a while, then a WebSocket is tried again", () => {
  const r = new Route(null);
  for (let i = 0; i < 2; i++) r.noted("websocket", false, 0);
  r.noted("http", true, 1000);
  r.noted("http", true, 2000); // another line: the time is that of the first
  expect(r.probeIn(2000)).toBe(PROBE_AFTER - 1000);
  expect(r.next(2000)).toBe("http");
  expect(r.next(1000 + PROBE_AFTER)).toBe("websocket");
  r.noted("websocket", false, 1000 + PROBE_AFTER);
  expect([r.next(1000 + PROBE_AFTER), r.probeIn(1000 + PROBE_AFTER)]).toEqual(["http", PROBE_AFTER]);
  r.noted("websocket", true, 1000 + 2 * PROBE_AFTER);
  expect([r.next(1000 + 2 * PROBE_AFTER), r.probeIn(0)]).toEqual(["websocket", null]);
});

it("an app's choice is kept", () => {
  const [http, ws] = [new Route("http"), new Route("websocket")];
  for (let i = 0; i < 3; i++) ws.noted("websocket", false, 0);
  http.noted("http", true, 0);
  expect([http.next(0), http.probeIn(0), ws.next(0)]).toEqual(["http", null, "websocket"]);
});
