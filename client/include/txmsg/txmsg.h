/* libtxmsg: all of it. */
#ifndef TXMSG_TXMSG_H
#define TXMSG_TXMSG_H

#include "txmsg/message.h"
#include "txmsg/types.h"

#endif
