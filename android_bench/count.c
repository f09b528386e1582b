/* Counts the ARM64 instructions between the markers `hint #80` and `hint #81` that bench.cc sets around an inference.
 *
 *   qemu-aarch64 -plugin libcount.so,out=FILE program …
 *
 * appends a line with the count of every marked region to FILE, and before it, after an @, the count until each
 * `hint #82`. The count is exact to a basic block, does not depend on
 * the load of the machine, and is meant for one thread. Debian packages no qemu-plugin.h; the few functions of plugin
 * API version 1 that are used are declared here.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct qemu_info_t qemu_info_t;
typedef void (*tb_trans_cb)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*vcpu_udata_cb)(unsigned int vcpu, void *userdata);
enum { NO_REGISTERS = 0, INLINE_ADD_U64 = 0 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_trans_cb);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int operation, void *counter, uint64_t value);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, vcpu_udata_cb, int registers, void *userdata);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

static const uint32_t begin_marker = 0xd5032a1f; /* hint #80 */
static const uint32_t end_marker = 0xd5032a3f;   /* hint #81 */
static const uint32_t reading = 0xd5032a5f;      /* hint #82 */
static uint64_t executed, at_begin;
static FILE *out;

static void on_begin(unsigned int vcpu, void *unused) {
  (void)vcpu, (void)unused;
  at_begin = executed;
}

static void on_end(unsigned int vcpu, void *unused) {
  (void)vcpu, (void)unused;
  fprintf(out, "%" PRIu64 "\n", executed - at_begin);
  fflush(out);
}

static void on_reading(unsigned int vcpu, void *unused) {
  (void)vcpu, (void)unused;
  fprintf(out, "@%" PRIu64 "\n", executed);
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  (void)id;
  const size_t count = qemu_plugin_tb_n_insns(block);
  qemu_plugin_register_vcpu_tb_exec_inline(block, INLINE_ADD_U64, &executed, count);
  for (size_t i = 0; i < count; ++i) {
    struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, i);
    uint32_t code = 0;
    if (qemu_plugin_insn_size(instruction) != sizeof code) continue;
    memcpy(&code, qemu_plugin_insn_data(instruction), sizeof code);
    if (code == begin_marker) qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_begin, NO_REGISTERS, NULL);
    if (code == reading) qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_reading, NO_REGISTERS, NULL);
    if (code == end_marker) qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_end, NO_REGISTERS, NULL);
  }
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc,
                                                               char **argv) {
  (void)info;
  for (int i = 0; i < argc; ++i)
    if (strncmp(argv[i], "out=", 4) == 0) out = fopen(argv[i] + 4, "w");
  if (!out) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  return 0;
}
