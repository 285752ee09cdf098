/* Text of a manual page, to standard output. */
#pragma once

/* Text within a line, or a whole one: a minus is a minus, and nothing is a request. */
void roff_text(const char *s);
