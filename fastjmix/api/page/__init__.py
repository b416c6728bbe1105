"""The page for a browser, at / of each HTTP listener, outside its path_prefix.

routes.py  the routes: / and /page/…
files.py   style and scripts, from the package, with entity tags
shell.py   the one HTML document, which holds no data; and what it says without JavaScript
table.py   the node's status as tables in HTML, made here, for a browser without JavaScript
assets/    what is served: page.html, page.css and the scripts. page.js is the first of them;
           node.js talks to /api/node, dom.js makes elements; nothing is built

An empty path_prefix leaves / free: the API is then at /api/jmix.
"""
