// Keeps a folder of the playground for when there is no network (docs/playground.md).
// `python -m train.playground --static` fills in the two constants, so that a new build is a new worker.
"use strict";
const FILES = [];
const VERSION = "";
const SCOPE = self.registration.scope; // several playgrounds may stand on one server
const CACHE = `playground ${SCOPE} ${VERSION}`;

self.addEventListener("install", (event) => {
  // "no-cache" asks the server whether what the browser has is the newest: a file comes once.
  const requests = FILES.map((file) => new Request(new URL(file, SCOPE), { cache: "no-cache" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)));
});

// Once no page uses an older one any more: pages and models of two builds never meet.
self.addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    for (const name of await caches.keys()) {
      if (name.startsWith(`playground ${SCOPE} `) && name !== CACHE) await caches.delete(name);
    }
    await self.clients.claim();
  })());
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  url.search = url.hash = "";
  if (url.href === new URL("index.html", SCOPE).href) url.pathname = new URL(SCOPE).pathname;
  const file = url.href.startsWith(SCOPE) && (url.href.slice(SCOPE.length) || "./");
  if (event.request.method !== "GET" || !FILES.includes(file)) return;
  event.respondWith((async () => {
    const kept = await (await caches.open(CACHE)).match(new URL(file, SCOPE));
    return kept ?? fetch(event.request);
  })());
});
