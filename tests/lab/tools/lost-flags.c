/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Does this machine begin an instruction whose store has faulted again with the flags it had?
 *
 * QEMU 7.2's TCG does not for a setcc behind a test (docs/lab.md). Every guest whose dirty pages are
 * logged has such faults without knowing. Prints one line; exit status 0: flags are right, 1: not.
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define TRIES 100

static unsigned char *page;
static size_t page_bytes;

static void
fault_handle(int number)
{
    (void)number;
    if (mprotect(page, page_bytes, PROT_READ | PROT_WRITE) != 0)
        _exit(2);
}

/*
 * Zero is not greater than zero: writes 0 to a page that cannot be written yet. Before that one is, so
 * that flags that are too old give another answer.
 */
static int
store_faulted(void)
{
    *page = UINT8_MAX;
    if (mprotect(page, page_bytes, PROT_READ) != 0)
        exit(2);
    __asm__ volatile("test %0, %0\n\tjmp 1f\n1:\ttest %1, %1\n\tsetg (%2)"
                     :
                     : "r"(1), "r"(0), "r"(page)
                     : "memory", "cc");
    return *page;
}

int
main(void)
{
    struct sigaction action = {.sa_handler = fault_handle};
    int wrong = 0;

    page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    page = mmap(NULL, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || sigaction(SIGSEGV, &action, NULL) != 0)
        return 2;
    for (int i = 0; i < TRIES; i++)
        wrong += store_faulted() != 0;
    printf("flags of a store that faulted: wrong %d of %d times\n", wrong, TRIES);
    return wrong > 0;
}
