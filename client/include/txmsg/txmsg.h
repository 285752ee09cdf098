/* libtxmsg: all of it. */
#ifndef TXMSG_TXMSG_H
#define TXMSG_TXMSG_H

#include "txmsg/batch.h"
#include "txmsg/check.h"
#include "txmsg/client.h"
#include "txmsg/message.h"
#include "txmsg/options.h"
#include "txmsg/result.h"
#include "txmsg/transaction.h"
#include "txmsg/types.h"
#include "txmsg/view.h"

#endif
