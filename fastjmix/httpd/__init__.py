"""The parts of an HTTP server that the API's listeners and the embedded store share. No routes.

server.py            the application around the routes, and its runner
current_routes.py    the routes of a server, which can be replaced
middleware.py        errors, bounds, one log line a request
connection_limit.py  limits connections where they are accepted
limits.py            every bound, as a named number
credentials.py       RFC 9110 §11.4, and §7.4 where no credentials are configured
negotiation.py       §12.5.1: Accept
conditions.py        §13.1: If-Match, If-None-Match
ranges.py            §14.2: Range, If-Range
responses.py         JSON, refusals, OPTIONS
envelopes.py         GET …/{id} and its manifest, of every server
sending.py           an archive as a response; manifest.py: its manifest
parts.py             all envelopes of a study in one ZIP, made while it is sent
slots.py             how many requests of a kind run at once
receiving.py         the archive of a POST; upload_body.py: on its way to a file
archive_checks.py    checks posted archives, a few at a time
study_query.py       the query for a study, and links between its envelopes
"""
