for (const card of document.querySelectorAll("article")) {
  const show = (number) => {
    card.classList.toggle("busy", number !== undefined);
    for (const part of card.querySelectorAll("[data-crop]"))
      part.classList.toggle("on", part.dataset.crop === number);
  };
  for (const part of card.querySelectorAll("[data-crop]")) {
    part.addEventListener("mouseenter", () => show(part.dataset.crop));
    part.addEventListener("mouseleave", () => show());
  }
}
document.querySelector('input[type="search"]').addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const card of document.querySelectorAll("article"))
    card.hidden = !card.textContent.toLowerCase().includes(wanted);
});
