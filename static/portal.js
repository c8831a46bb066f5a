// What the pages cannot say in HTML. Everything works without this file.

// A page that looks again by itself must not show another page's content in its place: when the session has ended, the
// answer is the log-in page, and then the person should see that page whole.
document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr, requestConfig } = event.detail;
  if (xhr.responseURL && new URL(xhr.responseURL).pathname !== new URL(requestConfig.path, location).pathname) {
    event.detail.shouldSwap = false;
    location.reload();
  }
});
