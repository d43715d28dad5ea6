// Writing plain values as YAML, in the form endpoint files have.
"use strict";

const PLAIN = /^[A-Za-z_][\w./-]*$/;
const RESERVED = /^(true|false|null|yes|no|on|off|y|n)$/i;
// Characters that JSON leaves as they are and YAML wants escaped.
const ESCAPED = /[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]/g;

function yaml(value) {
  return block(value).join("\n") + "\n";
}

function block(value) {
  if (Array.isArray(value)) return value.flatMap((item) => indented(block(item), "- "));
  if (value === null || typeof value !== "object") return [scalar(value)];
  return Object.entries(value).flatMap(([key, inner]) => {
    if (inner === null || typeof inner !== "object") return [`${scalar(key)}: ${scalar(inner)}`];
    if (Object.keys(inner).length === 0) return [`${scalar(key)}: ${Array.isArray(inner) ? "[]" : "{}"}`];
    return [`${scalar(key)}:`, ...indented(block(inner), "  ")];
  });
}

function indented(lines, first) {
  return lines.map((text, number) => (number ? "  " : first) + text);
}

function scalar(value) {
  if (typeof value !== "string") return String(value);
  if (PLAIN.test(value) && !RESERVED.test(value)) return value;
  return JSON.stringify(value).replace(ESCAPED, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
