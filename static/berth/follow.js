// Following the newest output, until the reader scrolls up or presses pause.

const NEAR = 24; // px from the end that still count as the end

export class Follow {
  constructor({ scroller, content, toggle, jump }) {
    this.scroller = scroller;
    this.toggle = toggle;
    this.jump = jump;
    this.following = true;
    this.byHand = false; // paused by the button: scrolling to the end does not resume
    this.unseen = 0;
    this.top = 0;
    this.height = 0;
    scroller.addEventListener("scroll", () => this.scrolled(), { passive: true });
    toggle.addEventListener("click", () => (this.following ? this.pause(true) : this.resume()));
    jump.addEventListener("click", () => this.resume());
    // Blocks get their real height only when they come into sight, and the message box takes room as it grows.
    const resized = new ResizeObserver(() => this.following && this.stick());
    resized.observe(content);
    resized.observe(scroller);
    this.tell();
  }

  // `count` new pieces stand at the end.
  grown(count) {
    if (this.following) this.stick();
    else if (count) {
      this.unseen += count;
      this.tell();
    }
  }

  stick() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.top = this.scroller.scrollTop;
    this.height = this.scroller.scrollHeight;
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const atEnd = scrollHeight - scrollTop - clientHeight <= NEAR;
    const up = scrollTop < this.top - 3;
    this.top = scrollTop;
    if (!this.following) {
      if (atEnd && !this.byHand && !up) this.resume();
      return;
    }
    if (atEnd || !up) return;
    // Content that became lower moves the view up as well; that is not the reader.
    if (scrollHeight < this.height) this.stick();
    else this.pause(false);
  }

  pause(byHand) {
    this.following = false;
    this.byHand = byHand;
    this.tell();
  }

  resume() {
    this.following = true;
    this.byHand = false;
    this.unseen = 0;
    this.stick();
    this.tell();
  }

  tell() {
    this.toggle.setAttribute("aria-pressed", String(this.following));
    this.toggle.querySelector("[data-word]").textContent = this.following ? "Following" : "Paused";
    this.scroller.classList.toggle("following", this.following);
    this.jump.hidden = this.following;
    this.jump.querySelector("[data-word]").textContent = this.unseen
      ? `Jump to newest (${this.unseen} new)`
      : "Jump to newest";
  }
}
