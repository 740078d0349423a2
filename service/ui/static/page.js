// What the page does in the browser, beside Gradio: pictures that are dropped and painted on, the switches for
// language and light, the service's status, what screen readers are told, and keys. It speaks to its own host alone.
"use strict";
(() => {
  const BASE = document.querySelector("base")?.href ?? location.href;
  const MOST_BYTES = 20e6;
  const widgets = {};
  let infotext = "";
  let texts = {};
  let language = localStorage.getItem("sd-language") ?? "";

  const say = (key) => texts[key] ?? "";
  const press = (id) => document.getElementById(id)?.click();

  // --- pictures: chosen, dropped or pasted; with a mask, if one is wanted -------------------------------------

  class Picture {
    constructor(root) {
      this.root = root;
      this.tab = root.dataset.picture;
      this.masked = root.dataset.mask === "true";
      this.data = "";
      this.painted = false;
      this.undone = [];
      this.brush = 40;
      this.build();
    }

    build() {
      const tools = this.masked
        ? `<div class="sd-tools" hidden><label><span data-say="js.brush"></span>
             <input type="range" min="4" max="200" value="40" data-brush></label>
             <button type="button" class="sd-chip" data-undo data-say="js.undo"></button>
             <button type="button" class="sd-chip" data-clear data-say="js.clear"></button></div>
           <p class="sd-hint" hidden data-say="js.paint"></p>`
        : "";
      this.root.innerHTML = `
        <label class="sd-drop"><input type="file" accept="image/*" class="sd-file">
          <span class="sd-drop-text" data-say="js.drop"></span></label>
        <div class="sd-stage" hidden><img alt="">${
          this.masked ? '<canvas tabindex="0" role="img"></canvas>' : ""
        }</div>
        <p class="sd-hint sd-size" hidden></p>${tools}
        <button type="button" class="sd-chip sd-remove" data-remove data-say="js.remove" hidden></button>
        <p class="sd-complaint" role="alert"></p>`;
      this.image = this.root.querySelector("img");
      this.canvas = this.root.querySelector("canvas");
      this.input = this.root.querySelector("input[type=file]");
      this.input.addEventListener("change", () => this.take(this.input.files[0]));
      for (const kind of ["dragover", "dragleave", "drop"])
        this.root.addEventListener(kind, (event) => {
          event.preventDefault();
          this.root.classList.toggle("sd-over", kind === "dragover");
          if (kind === "drop") this.take(event.dataTransfer.files[0]);
        });
      this.root.querySelector("[data-remove]").addEventListener("click", () => this.clear());
      if (this.canvas) this.paintable();
      label(this.root);
    }

    complain(key) {
      this.root.querySelector(".sd-complaint").textContent = key ? say(key) : "";
    }

    async take(file) {
      if (!file) return;
      this.complain("");
      if (!file.type.startsWith("image/")) return this.complain("js.no_image");
      if (file.size > MOST_BYTES) return this.complain("js.too_large");
      const data = await new Promise((resolve) => {
        const reader = new FileReader();
        reader.onload = () => resolve(reader.result);
        reader.readAsDataURL(file);
      });
      this.show(data);
    }

    show(data) {
      this.image.onload = () => {
        this.data = data;
        this.reveal(true);
        const size = this.root.querySelector(".sd-size");
        size.textContent = `${this.image.naturalWidth} × ${this.image.naturalHeight}`;
        if (this.canvas) {
          this.canvas.width = this.image.naturalWidth;
          this.canvas.height = this.image.naturalHeight;
          this.undone = [];
          this.painted = false;
          this.cursor = [this.canvas.width / 2, this.canvas.height / 2];
        }
        if (this.tab === "pnginfo") press("pnginfo-read");
      };
      this.image.onerror = () => {
        this.clear();
        this.complain("js.no_image");
      };
      this.image.src = data;
    }

    clear() {
      this.data = "";
      this.input.value = "";
      this.painted = false;
      this.complain("");
      this.reveal(false);
      if (this.tab === "pnginfo") press("pnginfo-read");
      this.input.focus();
    }

    reveal(shown) {
      this.root.querySelector(".sd-drop").classList.toggle("sd-hidden", shown);
      for (const part of this.root.querySelectorAll(".sd-stage, .sd-tools, .sd-hint, .sd-remove")) part.hidden = !shown;
    }

    // --- the mask: white where something new is wanted ---

    paintable() {
      const canvas = this.canvas;
      const brush = this.root.querySelector("[data-brush]");
      brush.addEventListener("input", () => (this.brush = Number(brush.value)));
      this.root.querySelector("[data-undo]").addEventListener("click", () => this.undo());
      this.root.querySelector("[data-clear]").addEventListener("click", () => this.wipe());
      const at = (event) => {
        const box = canvas.getBoundingClientRect();
        return [
          ((event.clientX - box.left) / box.width) * canvas.width,
          ((event.clientY - box.top) / box.height) * canvas.height,
        ];
      };
      canvas.addEventListener("pointerdown", (event) => {
        canvas.setPointerCapture(event.pointerId);
        this.remember();
        this.last = at(event);
        this.line(this.last, this.last);
      });
      canvas.addEventListener("pointermove", (event) => {
        if (!this.last) return;
        const next = at(event);
        this.line(this.last, next);
        this.last = next;
      });
      for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => (this.last = null));
      // Without a pointer: arrows move, with Shift they paint, Space paints a dot.
      canvas.addEventListener("keydown", (event) => {
        const step = event.altKey ? 2 : Math.max(8, this.brush / 2);
        const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
        if (moves[event.key]) {
          const from = this.cursor;
          this.cursor = [
            Math.min(canvas.width, Math.max(0, from[0] + moves[event.key][0])),
            Math.min(canvas.height, Math.max(0, from[1] + moves[event.key][1])),
          ];
          if (event.shiftKey) {
            this.remember();
            this.line(from, this.cursor);
          }
          this.pointer();
        } else if (event.key === " " || event.key === "Enter") {
          this.remember();
          this.line(this.cursor, this.cursor);
        } else if (event.key === "Backspace" || (event.key === "z" && (event.ctrlKey || event.metaKey))) {
          this.undo();
        } else return;
        event.preventDefault();
      });
      canvas.addEventListener("focus", () => this.pointer());
      canvas.addEventListener("blur", () => this.root.querySelector(".sd-cursor")?.remove());
    }

    pointer() {
      if (!this.canvas.matches(":focus-visible")) return;
      let mark = this.root.querySelector(".sd-cursor");
      if (!mark) {
        mark = document.createElement("span");
        mark.className = "sd-cursor";
        this.canvas.parentElement.append(mark);
      }
      const scale = this.canvas.clientWidth / this.canvas.width;
      const side = this.pixels() * scale;
      mark.style.cssText = `width:${side}px;height:${side}px;left:${this.cursor[0] * scale - side / 2}px;top:${
        this.cursor[1] * scale - side / 2
      }px`;
    }

    // The brush's size is meant on the screen at 512 pixels, and grows with the picture.
    pixels() {
      return (this.brush * Math.max(this.canvas.width, this.canvas.height)) / 512;
    }

    line(from, to) {
      const pen = this.canvas.getContext("2d");
      pen.strokeStyle = "#fff";
      pen.lineWidth = this.pixels();
      pen.lineCap = pen.lineJoin = "round";
      pen.beginPath();
      pen.moveTo(...from);
      pen.lineTo(to[0] + 0.01, to[1]);
      pen.stroke();
      this.painted = true;
    }

    remember() {
      const pen = this.canvas.getContext("2d");
      this.undone.push([pen.getImageData(0, 0, this.canvas.width, this.canvas.height), this.painted]);
      if (this.undone.length > 12) this.undone.shift();
    }

    undo() {
      const before = this.undone.pop();
      if (!before) return;
      this.canvas.getContext("2d").putImageData(before[0], 0, 0);
      this.painted = before[1];
    }

    wipe() {
      if (!this.painted) return;
      this.remember();
      this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
      this.painted = false;
    }

    mask() {
      if (!this.painted) return "";
      const flat = document.createElement("canvas");
      flat.width = this.canvas.width;
      flat.height = this.canvas.height;
      const pen = flat.getContext("2d");
      pen.fillStyle = "#000";
      pen.fillRect(0, 0, flat.width, flat.height);
      pen.drawImage(this.canvas, 0, 0);
      return flat.toDataURL("image/png");
    }
  }

  // --- what Gradio's events call --------------------------------------------------------------------------------

  window.sd = {
    picture(element) {
      const root = element.querySelector("[data-picture]");
      if (root && !root.dataset.ready) {
        root.dataset.ready = "yes";
        widgets[root.dataset.picture] = new Picture(root);
      }
    },
    fill(tab, count, values) {
      const widget = widgets[tab];
      if (count > 0) values[0] = widget?.data ?? "";
      if (count > 1) values[1] = widget?.mask() ?? "";
      return values;
    },
    file: (tab) => widgets[tab]?.data ?? "",
    size(tab) {
      const image = widgets[tab]?.data && widgets[tab].image;
      if (!image) return [undefined, undefined];
      // The service makes sizes that are multiples of 8, at most 2048.
      const scale = Math.min(1, 2048 / Math.max(image.naturalWidth, image.naturalHeight));
      const round = (side) => Math.max(64, Math.round((side * scale) / 8) * 8);
      return [round(image.naturalWidth), round(image.naturalHeight)];
    },
    go(tab) {
      document.querySelector(`[role=tab][data-tab-id="${tab}"], #tab-${tab}-button`)?.click();
    },
    language: () => language,
    get infotext() {
      return infotext;
    },
  };

  // --- clicks on what the server wrote ----------------------------------------------------------------------------

  document.addEventListener("click", async (event) => {
    const target = event.target.closest("[data-send], [data-open], [data-copy], [data-theme-switch]");
    if (!target) return;
    if (target.dataset.open) return enlarge(target);
    if ("themeSwitch" in target.dataset) return shine(!document.body.classList.contains("dark"));
    const text = target.closest(".sd-card")?.querySelector(".sd-infotext")?.textContent ?? "";
    if ("copy" in target.dataset) {
      await navigator.clipboard?.writeText(text);
      return announce(say("js.copied"));
    }
    const tab = target.dataset.send;
    const answer = await fetch(new URL(target.dataset.address, BASE));
    if (!answer.ok) return announce(say("js.picture_gone"));
    window.sd.go(tab);
    await drawn(tab);
    await widgets[tab]?.take(new File([await answer.blob()], "picture", { type: answer.headers.get("content-type") }));
    infotext = text;
    if (text && tab !== "extras" && tab !== "pnginfo") press(`${tab}-paste`);
    announce(say("js.sent"));
  });

  // Gradio makes a tab when it is opened for the first time.
  async function drawn(tab) {
    for (let tries = 0; tries < 100 && !widgets[tab]; tries++) await new Promise((resolve) => setTimeout(resolve, 50));
  }

  function enlarge(opener) {
    const dialog = document.createElement("dialog");
    dialog.className = "sd-dialog";
    dialog.setAttribute("aria-label", opener.getAttribute("aria-label"));
    const close = document.createElement("button");
    close.type = "button";
    close.className = "sd-chip";
    close.textContent = say("js.close");
    const image = document.createElement("img");
    image.src = new URL(opener.dataset.open, BASE);
    image.alt = opener.getAttribute("aria-label");
    dialog.append(close, image);
    dialog.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => {
      dialog.remove();
      opener.focus();
    });
    document.body.append(dialog);
    dialog.showModal();
  }

  // --- language and light -----------------------------------------------------------------------------------------

  document.addEventListener("change", (event) => {
    if (!event.target.matches?.("select[data-language]")) return;
    language = event.target.value;
    localStorage.setItem("sd-language", language);
    press("sd-language");
  });

  function label(root) {
    for (const part of root.querySelectorAll("[data-say]")) part.textContent = say(part.dataset.say);
    for (const canvas of root.querySelectorAll("canvas")) canvas.setAttribute("aria-label", say("js.canvas"));
    for (const image of root.querySelectorAll(".sd-stage img")) image.alt = say("js.chosen");
  }

  async function learn(code) {
    const answer = await fetch(new URL(`page/words/${code}.json`, BASE));
    if (!answer.ok) return;
    texts = await answer.json();
    document.documentElement.lang = code;
    label(document);
    status();
  }

  function shine(dark) {
    document.body.classList.toggle("dark", dark);
    localStorage.setItem("sd-theme", dark ? "dark" : "light");
  }

  // --- status of the service: asked while somebody looks --------------------------------------------------------

  let before = "";
  async function status() {
    const place = document.getElementById("sd-status");
    if (!place || document.hidden) return;
    let state = "offline";
    try {
      const answer = await fetch(new URL(`page/status?language=${document.documentElement.lang}`, BASE));
      const said = await answer.json();
      state = said.state;
      fill(place, said.html);
    } catch {
      fill(place, `<p class="sd-status sd-status-offline" role="status"><span class="sd-dot"></span>${say("status.offline")}</p>`);
    }
    // The lists of checkpoints and others come with the service.
    const up = (state) => state === "ready" || state === "busy" || state === "quiet";
    if (up(state) && before && !up(before)) press("sd-lists");
    before = state;
  }

  function fill(place, html) {
    if (place.dataset.html === html) return;
    place.dataset.html = html;
    place.innerHTML = html;
  }

  // --- for ears and for keys ---------------------------------------------------------------------------------------

  const ear = document.createElement("p");
  ear.className = "sd-hidden";
  ear.setAttribute("role", "status");
  ear.setAttribute("aria-live", "polite");

  function announce(text) {
    if (text && ear.textContent !== text) ear.textContent = text;
  }

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    const panel = event.target.closest?.("[role=tabpanel]");
    const button = panel?.querySelector("[id$=-generate]");
    if (!button) return;
    event.preventDefault();
    // A text that is being written reaches the server when its field is left.
    event.target.blur?.();
    setTimeout(() => button.click(), 50);
  });

  // Gradio's own parts, where they lack a name or a role that assistive technology needs.
  function mend() {
    for (const header of document.querySelectorAll(".toast-header[role=button]")) header.removeAttribute("role");
    for (const table of document.querySelectorAll("[aria-label='Empty value']:not([role])")) table.setAttribute("role", "img");
  }

  let stage = "";
  function told() {
    const open = [...document.querySelectorAll("[id$=-live] .sd-what")].filter((what) => what.offsetParent);
    const what = open[0]?.textContent ?? "";
    if (what && what !== stage) {
      stage = what;
      announce(what);
      setTimeout(status, 400);
    }
    mend();
  }

  function begin() {
    document.body.append(ear);
    const chosen = localStorage.getItem("sd-theme");
    if (chosen) shine(chosen === "dark");
    let waiting = false;
    new MutationObserver(() => {
      if (waiting) return;
      waiting = true;
      setTimeout(() => {
        waiting = false;
        told();
        const wanted = document.querySelector("select[data-language]")?.value;
        if (wanted && wanted !== document.documentElement.dataset.language) {
          document.documentElement.dataset.language = wanted;
          learn(wanted);
        }
      }, 120);
    }).observe(document.body, { childList: true, subtree: true });
    const seconds = Number(document.documentElement.dataset.poll ?? 5);
    setInterval(status, Math.max(1, seconds) * 1000);
    document.addEventListener("visibilitychange", status);
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
