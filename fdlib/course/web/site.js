// Search through everything, without a server: all words must occur in a section; where they stand decides the order.
const up = document.body.dataset.up, box = document.getElementById("search"), list = document.getElementById("found");
const plain = text => text.toLowerCase();

function search(question) {
  const words = plain(question).split(/\s+/).filter(word => word.length > 1);
  if (!words.length) return [];
  const hits = [];
  for (const [address, title, heading, text] of INDEX) {
    const high = plain(heading), page = plain(title), low = plain(text);
    let score = 0;
    for (const word of words) {
      const points = 8 * high.includes(word) + 3 * page.includes(word) + low.includes(word);
      if (!points) { score = 0; break; }
      score += points;
    }
    if (score) hits.push({address, title, heading, text, score, at: Math.max(0, low.indexOf(words[0]) - 60)});
  }
  return hits.sort((a, b) => b.score - a.score).slice(0, 20);
}

function show() {
  const hits = search(box.value);
  list.replaceChildren(...hits.map(hit => {
    const item = document.createElement("li"), link = document.createElement("a"), note = document.createElement("small");
    link.href = up + hit.address;
    link.textContent = hit.heading && hit.heading !== hit.title ? `${hit.title}: ${hit.heading}` : hit.title;
    note.textContent = hit.text.slice(hit.at, hit.at + 160);
    item.append(link, note);
    return item;
  }));
  if (box.value.trim().length > 1 && !hits.length) list.innerHTML = "<li>Nothing found.</li>";
  list.hidden = box.value.trim().length < 2;
}

box.addEventListener("input", show);
box.addEventListener("keydown", event => { if (event.key === "Escape") { box.value = ""; show(); } });
if (matchMedia("(min-width: 70rem)").matches) document.querySelector(".contents").open = true;
