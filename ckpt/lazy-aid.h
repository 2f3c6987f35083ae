/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Before HELLO, after another district-ckpt: an engine whose RAM is still being filled in may wait for a
 * page of it in the very thread that answers HELLO. So pages that somebody waits for are put in place
 * from the beginning. Another thread of the engine passes what that takes (vmm/lazy_ram.h).
 */
#ifndef DISTRICT_CKPT_LAZY_AID_H
#define DISTRICT_CKPT_LAZY_AID_H

#include "ckpt/coordinator.h"

typedef struct LazyAid LazyAid;

/* NULL: no engine needs any, or there is no help, which has been told. The store of config is open, to write
 * unless it is a clone's, until the end. */
LazyAid *lazy_aid_begin(const CoordinatorConfig *config);
/* HELLO has been said. NULL is allowed. */
void lazy_aid_end(LazyAid *aid);

#endif
