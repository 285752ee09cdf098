/* Included by the compiler in front of every file of this project (-include): dangerous functions become errors. */
#pragma once

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* With clang and fortification a macro, which cannot be poisoned silently. */
#undef sprintf

#pragma GCC poison strcpy strcat strncpy strncat sprintf vsprintf gets strtok atoi atol atoll atof
#pragma GCC poison localtime gmtime ctime asctime tmpnam mktemp srand system

/* Not poisoned: OpenSSL's headers have parameters of this name. */
int rand(void) __attribute__((unavailable("use crypto_random")));
