//! The frame of the double's pages: one style sheet, no script, nothing from other servers.

use axum::response::Html;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1a1f36;--dim:#5b6478;--line:#d8dde6;--page:#f6f8fa;--card:#fff;--go:#4338ca;--bad:#b3261e}\
@media(prefers-color-scheme:dark){:root{--ink:#e8ebf2;--dim:#a2abbd;--line:#3a4256;--page:#12151f;--card:#1b2030;--go:#6d64f0;--bad:#ff8a80}}\
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}\
main{max-width:46rem;margin:0 auto;padding:2rem 1rem 4rem}main.narrow{max-width:30rem}\
.test{background:#fbbf24;color:#1f1300;text-align:center;font-size:.8rem;padding:.25rem;font-weight:600}\
h1{font-size:1.4rem;margin:.5rem 0 1rem}h2{font-size:1.05rem;margin:0 0 .5rem}p{margin:.4rem 0}\
section{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1.1rem 1.25rem;margin:1rem 0;overflow-x:auto}\
table{width:100%;border-collapse:collapse}th,td{text-align:left;padding:.4rem .5rem .4rem 0;border-bottom:1px solid var(--line);vertical-align:top}\
th{font-weight:600;color:var(--dim);font-size:.85rem}td.money,th.money{text-align:right;font-variant-numeric:tabular-nums;padding-right:0}\
tr:last-child td{border-bottom:0}tr.total td{border-top:2px solid var(--line);font-weight:700}\
.dim{color:var(--dim);font-size:.9rem}.bad{color:var(--bad);font-weight:600}code{font-size:.85rem;overflow-wrap:anywhere}\
form{display:inline}button,.button{font:inherit;font-weight:600;border-radius:.4rem;padding:.6rem 1rem;border:1px solid var(--line);background:var(--card);color:var(--ink);cursor:pointer;text-decoration:none;display:inline-block;margin:.25rem .25rem .25rem 0}\
button.go{background:var(--go);border-color:var(--go);color:#fff}form.wide,form.wide button{display:block;width:100%;margin:.5rem 0}\
a{color:var(--go)}button:focus-visible,a:focus-visible{outline:3px solid #fbbf24;outline-offset:2px}";

/// How wide a page is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Narrow,
    Wide,
}

/// A whole page around `body`, which is HTML already.
pub(crate) fn page(title: &str, width: Width, body: &str) -> Html<String> {
    let class = if width == Width::Narrow {
        " class=\"narrow\""
    } else {
        ""
    };
    Html(format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>{title}</title><style>{STYLE}</style></head><body>\
         <div class=\"test\">Test double of Stripe: no money moves here</div><main{class}><h1>{title}</h1>{body}</main></body></html>",
        title = escape(title),
    ))
}

/// A button that posts to `action`.
pub(crate) fn button(action: &str, label: &str, class: &str) -> String {
    let (action, label) = (escape(action), escape(label));
    format!("<form method=\"post\" action=\"{action}\"><button class=\"{class}\">{label}</button></form>")
}

/// A button as wide as the page.
pub(crate) fn wide_button(action: &str, label: &str, class: &str) -> String {
    button(action, label, class).replacen("<form ", "<form class=\"wide\" ", 1)
}

/// A link, unless following `url` would run a script.
pub(crate) fn link(url: &str, label: &str) -> String {
    match url.starts_with("http://") || url.starts_with("https://") || url.starts_with('/') {
        true => format!("<a href=\"{}\">{}</a>", escape(url), escape(label)),
        false => escape(label),
    }
}

/// A table row; cells are HTML already.
pub(crate) fn row(cells: &[String]) -> String {
    let cells: String = cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
    format!("<tr>{cells}</tr>")
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_callers_is_escaped() {
        let page = page("<script>", Width::Wide, &link("javascript:alert(1)", "<b>\"x\"</b>")).0;
        assert!(!page.contains("<script>") && !page.contains("javascript:") && !page.contains("<b>"));
    }
}
