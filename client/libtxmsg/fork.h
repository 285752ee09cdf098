/* How often this process has been forked off since the library was first used: what was made before belongs to a parent. */
#pragma once

/* A process that came from vfork() or clone() without the C library is not seen. @thread any */
unsigned fork_count(void);
