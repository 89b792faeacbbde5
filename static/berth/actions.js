// What a person does on the page: send a message, stop, close. Each is one POST that answers in JSON.

// POST `fields`; the answer's JSON. Fails with an Error whose message is for the person.
export async function post(address, token, fields = {}) {
  let response;
  try {
    response = await fetch(address, {
      method: "POST",
      body: new URLSearchParams(fields),
      headers: { "X-CSRFToken": token, Accept: "application/json" },
      redirect: "manual",
    });
  } catch {
    throw new Error("The server can't be reached. What you wrote is kept: try again.");
  }
  if (response.type === "opaqueredirect") {
    throw new Error("You are not logged in any more. Log in in another tab, then try again.");
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer !== null) return answer;
  throw new Error(answer?.error ?? `The server answered ${response.status}. Nothing was changed: try again.`);
}

// The message box. The draft outlives a failed attempt and a reload.
export class Composer {
  constructor(form, { error, address, token, draftKey }) {
    this.form = form;
    this.address = address;
    this.token = token;
    this.draftKey = draftKey;
    this.box = form.querySelector("textarea");
    this.button = form.querySelector("button");
    this.error = error;
    this.attempt = null; // {text, key}: the same text tried again is the same message
    this.sending = false;
    this.box.value = sessionStorage.getItem(draftKey) ?? "";
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.box.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    this.box.addEventListener("input", () => this.changed());
    this.changed();
  }

  changed() {
    sessionStorage.setItem(this.draftKey, this.box.value);
    this.button.disabled = this.sending || this.box.disabled || !this.box.value.trim();
  }

  // Whether this person may write; if not, `reason` stands in the box.
  allow(allowed, reason) {
    if (this.box.disabled === allowed) {
      this.box.disabled = !allowed;
      this.changed();
    }
    this.box.placeholder = allowed ? this.box.dataset.placeholder : reason;
    this.form.classList.toggle("forbidden", !allowed);
  }

  async send() {
    const text = this.box.value;
    if (this.sending || !text.trim()) return;
    if (this.attempt?.text !== text) this.attempt = { text, key: randomKey() };
    this.sending = true;
    this.box.readOnly = true;
    this.error.textContent = "";
    this.changed();
    try {
      await post(this.address, this.token, { text, key: this.attempt.key });
      this.attempt = null;
      this.box.value = "";
    } catch (error) {
      this.error.textContent = error.message;
    }
    this.sending = false;
    this.box.readOnly = false;
    this.changed();
    this.box.focus();
  }
}

// crypto.randomUUID exists only on https and localhost.
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
