// Formulas arrive as \( \) and \[ \]; only elements that the Markdown extension marked are set. Long ones are broken.
window.MathJax = {
  tex: { inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]], processEscapes: true },
  output: { displayAlign: "left", displayOverflow: "linebreak" },
  options: { ignoreHtmlClass: ".*|", processHtmlClass: "arithmatex" },
};
