// Elements of the page, made without a line of HTML: what comes from a server or a file is text and stays text.

/**
 * Returns an element.
 * @param {string} tag its name
 * @param {object} properties by name; those with a dash, and "role", are set as attributes
 * @param {...(Node|string)} children
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Returns the element of that id. */
export const byId = (id) => document.getElementById(id);

/** Says something to those who listen to the page. */
export function speak(text) {
  byId("spoken").textContent = text;
}

/**
 * Returns a share of 1 as a percentage, with as many digits as it takes to tell it from another one.
 * @param {number} share
 * @param {number} [other] what it is compared with, such as a threshold
 */
export function percent(share, other = share) {
  const written = (value, digits) => (value * 100).toFixed(digits);
  let digits = 1;
  while (share !== other && digits < 6 && written(share, digits) === written(other, digits)) digits += 1;
  const text = written(share, digits);
  // A network is never as certain as rounding makes it.
  if (Number(text) === 0) return `<${(10 ** -digits).toFixed(digits)}%`;
  if (Number(text) === 100) return `>${(100 - 10 ** -digits).toFixed(digits)}%`;
  return `${text}%`;
}
