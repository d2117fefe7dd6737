// A text with numbered lines, on which mistakes are marked; what is typed goes to Python a moment later.
//
// data: {text, revision, mistakes: {line: words}}. The text is taken from Python only when `revision` is a new one,
// so that an answer that comes late never undoes what was typed meanwhile.
const PAUSE_MS = 300;

export default function ({ data, parentElement, setStateValue }) {
  const editor = parentElement.querySelector(".editor");
  const [numbers, marks, area] = [".numbers", ".marks", "textarea"].map((it) => editor.querySelector(it));

  const draw = () => {
    const lines = area.value.split("\n").length;
    for (const column of [numbers, marks]) {
      while (column.childElementCount > lines) column.lastChild.remove();
      while (column.childElementCount < lines) column.append(document.createElement("div"));
    }
    for (let line = 1; line <= lines; line++) {
      const words = data.mistakes[line];
      const number = numbers.children[line - 1];
      number.textContent = line;
      number.title = words ?? "";
      for (const cell of [number, marks.children[line - 1]]) cell.classList.toggle("wrong", words !== undefined);
    }
    follow();
  };
  const follow = () => {
    numbers.scrollTop = marks.scrollTop = area.scrollTop;
  };
  const tell = () => {
    clearTimeout(editor.timer);
    editor.timer = undefined;
    setStateValue("text", area.value);
  };
  const tellSoon = () => {
    clearTimeout(editor.timer);
    editor.timer = setTimeout(tell, PAUSE_MS);
  };

  if (editor.dataset.revision !== String(data.revision)) {
    editor.dataset.revision = data.revision;
    clearTimeout(editor.timer);
    editor.timer = undefined;
    area.value = data.text;
  }
  area.onscroll = follow;
  area.oninput = () => {
    draw();
    tellSoon();
  };
  area.onblur = () => {
    if (editor.timer !== undefined) tell();
  };
  area.onkeydown = (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    const before = area.value.slice(0, area.selectionStart);
    const indent = before.slice(before.lastIndexOf("\n") + 1).match(/^ */)[0];
    if (!indent) return;
    event.preventDefault();
    document.execCommand("insertText", false, "\n" + indent); // unlike setRangeText it can be undone
  };
  draw();
}
