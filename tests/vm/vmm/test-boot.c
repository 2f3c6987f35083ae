/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Loading kernels: what is placed where, and what is refused. Needs KVM for the vCPU's registers.
 */
#include "vmm/boot.h"
#include "vmm/vcpu.h"

#include "common/memfd.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define TEST_RAM (64ULL << 20)
#define PREFERRED 0x1000000ULL

static GPtrArray *machines;
static char *directory;

static Machine *
machine_make(void)
{
    g_autoptr(GError) error = NULL;
    MachineConfig config = {
        .name = "test", .ram_size = TEST_RAM, .n_vcpus = 2, .ram_fd = -1, .stir_fd = -1};
    Machine *m = machine_new(&config, &error);

    g_assert_no_error(error);
    g_ptr_array_add(machines, m);
    return m;
}

static char *
file_make(const char *name, const void *data, size_t len)
{
    g_autoptr(GError) error = NULL;
    char *path = g_build_filename(directory, name, NULL);

    g_file_set_contents(path, data, (gssize)len, &error);
    g_assert_no_error(error);
    return path;
}

/* The smallest file that is a 64-bit bzImage by its header. */
static GByteArray *
bzimage_make(void)
{
    GByteArray *file = g_byte_array_new();
    struct setup_header header = {
        .setup_sects = 1,
        .boot_flag = 0xAA55,
        .header = 0x53726448,
        .version = 0x020F,
        .initrd_addr_max = 0x7FFFFFFF,
        .kernel_alignment = 0x200000,
        .relocatable_kernel = 1,
        .xloadflags = XLF_KERNEL_64,
        .cmdline_size = 2047,
        .pref_address = PREFERRED,
        .init_size = 8 << 20,
    };

    g_byte_array_set_size(file, 1024 + 4096);
    memset(file->data, 0, file->len);
    memcpy(file->data + 0x1F1, &header, sizeof(header));
    file->data[0x201] = (uint8_t)(0x1F1 + sizeof(header) - 0x202);
    memcpy(file->data + 1024, "KERNEL", 6);
    return file;
}

static void
boot_refused(const BootConfig *config, const char *why)
{
    g_autoptr(GError) error = NULL;

    g_assert_false(boot_load(machine_make(), config, &error));
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, why));
    g_assert_null(strchr(error->message, '\n'));
}

static void
test_bzimage_placed(void)
{
    g_autoptr(GByteArray) file = bzimage_make();
    g_autofree char *kernel = file_make("bzImage", file->data, file->len);
    g_autofree char *initrd = file_make("initrd", "INITRD", 6);
    BootConfig config = {
        .kernel = kernel, .initrd = initrd, .cmdline = "console=ttyS0", .n_vcpus = 2};
    g_autoptr(GError) error = NULL;
    Machine *m = machine_make();
    const struct boot_params *params;
    struct kvm_regs regs;

    boot_load(m, &config, &error);
    g_assert_no_error(error);
    g_assert_cmpint(ioctl(m->vcpus->vcpu[0].fd, KVM_GET_REGS, &regs), ==, 0);
    g_assert_cmphex(regs.rip, ==, PREFERRED + 0x200);
    params = machine_ram(m, regs.rsi, sizeof(*params));
    g_assert_nonnull(params);
    g_assert_cmpmem(machine_ram(m, PREFERRED, 6), 6, "KERNEL", 6);
    g_assert_cmpmem(machine_ram(m, params->hdr.ramdisk_image, 6), 6, "INITRD", 6);
    g_assert_cmpuint(params->hdr.ramdisk_size, ==, 6);
    g_assert_cmpstr(machine_ram(m, params->hdr.cmd_line_ptr, 64), ==, "console=ttyS0");
    g_assert_cmpuint(params->e820_entries, >=, 3);
    g_assert_cmpmem(machine_ram(m, params->acpi_rsdp_addr, 8), 8, "RSD PTR ", 8);
}

static void
test_bzimage_refusals(void)
{
    g_autoptr(GByteArray) file = bzimage_make();
    struct setup_header *header = (struct setup_header *)(file->data + 0x1F1);
    g_autofree char *path = g_build_filename(directory, "bad", NULL);
    BootConfig config = {.kernel = path, .n_vcpus = 2};

    boot_refused(&config, "cannot open");
    g_free(file_make("bad", "#!/bin/sh\n", 10));
    boot_refused(&config, "not a kernel");
    g_free(file_make("bad", file->data, 1024));
    boot_refused(&config, "cut short");
    header->xloadflags = 0;
    g_free(file_make("bad", file->data, file->len));
    boot_refused(&config, "64-bit");
    header->xloadflags = XLF_KERNEL_64;
    header->version = 0x0204;
    g_free(file_make("bad", file->data, file->len));
    boot_refused(&config, "too old");
    header->version = 0x020F;
    header->init_size = 128 << 20;
    g_free(file_make("bad", file->data, file->len));
    boot_refused(&config, "more memory");
}

static void
test_initrd_too_big(void)
{
    g_autoptr(GByteArray) file = bzimage_make();
    g_autofree char *kernel = file_make("bzImage", file->data, file->len);
    g_autofree char *initrd = g_build_filename(directory, "big", NULL);
    BootConfig config = {.kernel = kernel, .initrd = initrd, .n_vcpus = 2};
    int fd = open(initrd, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

    g_assert_cmpint(ftruncate(fd, 60 << 20), ==, 0);
    close(fd);
    boot_refused(&config, "more memory");
}

static void
test_command_line_too_long(void)
{
    g_autoptr(GByteArray) file = bzimage_make();
    g_autofree char *kernel = file_make("bzImage", file->data, file->len);
    g_autofree char *line = g_strnfill(3000, 'x');
    BootConfig config = {.kernel = kernel, .cmdline = line, .n_vcpus = 2};

    boot_refused(&config, "command line");
}

/* An ELF file with one segment at 2 MiB and a PVH note. */
static GByteArray *
elf_make(void)
{
    struct {
        Elf64_Ehdr head;
        Elf64_Phdr load;
        Elf64_Phdr note;
        Elf64_Nhdr note_head;
        char name[4];
        uint32_t entry;
        char code[8];
    } elf = {
        .head = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64},
                 .e_machine = EM_X86_64,
                 .e_phoff = G_STRUCT_OFFSET(__typeof__(elf), load),
                 .e_phnum = 2},
        .load = {.p_type = PT_LOAD,
                 .p_offset = G_STRUCT_OFFSET(__typeof__(elf), code),
                 .p_paddr = 0x200000,
                 .p_filesz = 8,
                 .p_memsz = 8192},
        .note = {.p_type = PT_NOTE,
                 .p_offset = G_STRUCT_OFFSET(__typeof__(elf), note_head),
                 .p_filesz = 20},
        .note_head = {.n_namesz = 4, .n_descsz = 4, .n_type = 18},
        .name = "Xen",
        .entry = 0x200004,
        .code = "PVHCODE",
    };
    GByteArray *file = g_byte_array_new();

    g_byte_array_append(file, (const uint8_t *)&elf,
                        G_STRUCT_OFFSET(__typeof__(elf), code) + sizeof(elf.code));
    return file;
}

static void
test_elf_placed(void)
{
    g_autoptr(GByteArray) file = elf_make();
    g_autofree char *kernel = file_make("vmlinux", file->data, file->len);
    BootConfig config = {.kernel = kernel, .n_vcpus = 2};
    g_autoptr(GError) error = NULL;
    Machine *m = machine_make();
    struct kvm_regs regs;

    boot_load(m, &config, &error);
    g_assert_no_error(error);
    g_assert_cmpint(ioctl(m->vcpus->vcpu[0].fd, KVM_GET_REGS, &regs), ==, 0);
    g_assert_cmphex(regs.rip, ==, 0x200004);
    g_assert_cmpmem(machine_ram(m, 0x200000, 7), 7, "PVHCODE", 7);
    g_assert_cmphex(*(uint32_t *)machine_ram(m, regs.rbx, 4), ==, 0x336EC578);
}

static void
test_elf_refusals(void)
{
    g_autoptr(GByteArray) file = elf_make();
    Elf64_Ehdr *head = (Elf64_Ehdr *)file->data;
    Elf64_Phdr *segments = (Elf64_Phdr *)(file->data + head->e_phoff);
    g_autofree char *path = g_build_filename(directory, "bad", NULL);
    BootConfig config = {.kernel = path, .n_vcpus = 2};

    head->e_machine = EM_AARCH64;
    g_free(file_make("bad", file->data, file->len));
    boot_refused(&config, "not for x86");
    head->e_machine = EM_X86_64;
    head->e_phoff = ~0ULL - 8;
    g_free(file_make("bad", file->data, file->len));
    boot_refused(&config, "cut short");
    head->e_phoff = sizeof(*head);
    segments[0].p_paddr = ~0ULL - 4096;
    g_free(file_make("bad", file->data, file->len));
    boot_refused(&config, "end of memory");
    segments[0].p_paddr = 0x200000;
    segments[0].p_filesz = ~0ULL;
    g_free(file_make("bad", file->data, file->len));
    boot_refused(&config, "cut short");
    segments[0].p_filesz = 8;
    segments[1].p_filesz = 12;
    g_free(file_make("bad", file->data, file->len));
    boot_refused(&config, "PVH");
}

/* Every cut of a good file is refused or loads without harm. */
static void
test_elf_cut_anywhere(void)
{
    g_autoptr(GByteArray) file = elf_make();
    Machine *m = machine_make();

    for (guint len = 0; len < file->len; len++) {
        g_autofree char *path = file_make("cut", file->data, len);
        BootConfig config = {.kernel = path, .n_vcpus = 2};
        g_autoptr(GError) error = NULL;

        g_assert_false(boot_load(m, &config, &error));
        g_assert_nonnull(error);
    }
}

int
main(int argc, char **argv)
{
    int status;

    if (access("/dev/kvm", R_OK | W_OK) != 0) {
        g_print("1..0 # SKIP /dev/kvm is not there: load the kvm module for this processor\n");
        return 77;
    }
    g_test_init(&argc, &argv, NULL);
    machines = g_ptr_array_new();
    directory = g_dir_make_tmp("test-boot-XXXXXX", NULL);
    g_test_add_func("/boot/a bzImage is placed with its initrd and command line",
                    test_bzimage_placed);
    g_test_add_func("/boot/what is no bzImage is refused by name", test_bzimage_refusals);
    g_test_add_func("/boot/an initrd too big for memory is refused", test_initrd_too_big);
    g_test_add_func("/boot/a command line too long is refused", test_command_line_too_long);
    g_test_add_func("/boot/an ELF file is placed and entered at its PVH entry", test_elf_placed);
    g_test_add_func("/boot/a damaged ELF file is refused by name", test_elf_refusals);
    g_test_add_func("/boot/an ELF file cut anywhere does no harm", test_elf_cut_anywhere);
    status = g_test_run();
    for (const char *const *name =
             (const char *const[]){"bzImage", "initrd", "bad", "big", "vmlinux", "cut", NULL};
         *name != NULL; name++) {
        g_autofree char *path = g_build_filename(directory, *name, NULL);

        unlink(path);
    }
    rmdir(directory);
    g_free(directory);
    return status;
}
