// Lets Unfold's pages work without 'unsafe-eval' (controlplane/csp.py). Alpine stands here in its build that reads
// expressions itself instead of compiling them (static/unfold/js/alpine/alpine.js, in the place of Unfold's own). It knows
// no global names, no statements and no functions in attributes, so what Unfold's templates want of these is given here.
// tests/browser/test_policy.py opens every page and finds what a new Unfold may want besides.

htmx.config.includeIndicatorStyles = false; // a style in the page, which nothing here needs
htmx.config.allowEval = false;

// What Unfold's attributes call by a global name.
const storage = {
  getItem: (name) => window.localStorage.getItem(name),
  setItem: (name, value) => window.localStorage.setItem(name, value),
};

const here = {
  location: {
    get pathname() {
      return window.location.pathname;
    },
    get search() {
      return window.location.search;
    },
  },
};

// Whether a field has a value; one that is not there has any: whoever may only read a page has no form.
function shown(name, value) {
  return !(name in this) || this[name] == value; // `this` is what Alpine knows at the place of the attribute
}

// Tells Alpine what was chosen in a field of Select2, which has events of jQuery's only.
function chosen(id, name) {
  django.jQuery(`#${id}`).on("change", (event) => {
    this[name] = django.jQuery(event.target).val();
  });
}

// Expressions that can't be read, and what stands for them; the first group of a match is put where $1 is.
const INSTEAD = [
  // The button that changes it stores it too.
  [/\$watch\('sidebarDesktopOpen',[^;]*;/, ""],
  [/^const \$ = django\.jQuery;.*?\$\('#(\w+)'\).*?\{ (\w+) = select\.val\(\);.*$/s, "chosen('$1', '$2')"],
  [/^if \(([^{}]*)\) (\w+\([^{}]*\))$/, "($1) && $2"],
  [/^typeof (\w+) == 'undefined' \|\| \1 == ('[^']*')$/, "shown('$1', $2)"],
];

// Several statements are the elements of a list. A semicolon in quotes is none: an even number of quotes follows one.
const BETWEEN = /;(?=(?:[^']*'[^']*')*[^']*$)/;

function understood(name, expression) {
  const text = INSTEAD.reduce((text, [pattern, other]) => text.replace(pattern, other), expression);
  if (!/^x-(on:|init)/.test(name)) return text;
  const steps = text.split(BETWEEN).filter((step) => step.trim());
  return steps.length > 1 ? `[${steps.join(", ")}]` : text;
}

document.addEventListener("alpine:init", () => {
  for (const name of ["searchForm", "searchDropdown", "searchCommand"]) {
    if (typeof window[name] === "function") Alpine.data(name, window[name]);
  }
  Alpine.data("theme", (...given) => ({
    ...theme(...given),
    localStorage: storage,
    window: here,
    getCurrentTab,
    chosen,
    shown,
  }));
  for (const element of document.querySelectorAll("*")) {
    for (const { name, value } of [...element.attributes]) {
      if (!name.startsWith("x-")) continue;
      const other = understood(name, value);
      if (other !== value) element.setAttribute(name, other);
    }
  }
});
