/* The manual page of the daemon, made from the option table. */
#pragma once

void manual_print(void); /* roff, to standard output */
