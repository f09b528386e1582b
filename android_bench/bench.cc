// Loads a model, runs it, and prints what happened as JSON lines. The same source on the host, under qemu and on a
// phone. It computes no statistics: every sample is printed.
//
//   bench --model FILE --inputs FILE [--outputs FILE] [--threads N] [--warmup N] [--repeat N] [--least_ms N]
//         [--profile 0|1|2] [--trust 0|1]
//   bench                                                      the same program without a model: what itself takes
//
// The inputs file holds one record after the other, each the bytes of all inputs of one inference. Every record is run
// `--repeat` times, and on until these runs have taken `--least_ms`; the outputs of its last run are appended to the
// outputs file. Memory is constant in the number of records. Around every inference stand two marker instructions for
// the instruction counter (count.c); where they mean nothing, they do nothing. `--profile 1` prints what every
// operator took; 2 is for the instruction counter.
//
// A runtime that does not verify a file dies of a damaged one, or worse. It is given only the file whose SHA-256 is in
// `proven.sha256` beside this program; any other one with `--trust 1`.
#include <dlfcn.h>
#include <time.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "../targets/runtime.h"
#include "sha256.h"

#if defined(__aarch64__)
#define BEGIN_INFERENCE() __asm__ volatile("hint #80" ::: "memory")
#define END_INFERENCE() __asm__ volatile("hint #81" ::: "memory")
#define READING() __asm__ volatile("hint #82" ::: "memory")
#else
#define BEGIN_INFERENCE() ((void)0)
#define END_INFERENCE() ((void)0)
#define READING() ((void)0)
#endif

namespace {

struct Options {
  std::string model, inputs, outputs;
  int threads = 1, warmup = 0, repeat = 1, least_ms = 0, profile = 0, trust = 0, info = 0;
};

bool counting_readings = false;

// For a JSON string.
std::string escape(const std::string &text) {
  std::string escaped;
  for (char c : text) escaped += c == '"' || c == '\\' ? std::string("\\") + c : std::string(1, c);
  return escaped;
}

[[noreturn]] void fail(const std::string &message) {
  std::printf("{\"error\": \"%s\"}\n", escape(message).c_str());
  std::fflush(stdout);
  std::exit(1);
}

Options parse(int argc, char **argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i], value = argv[i + 1];
    if (name == "--model") options.model = value;
    else if (name == "--inputs") options.inputs = value;
    else if (name == "--outputs") options.outputs = value;
    else if (name == "--threads") options.threads = std::atoi(value.c_str());
    else if (name == "--warmup") options.warmup = std::atoi(value.c_str());
    else if (name == "--repeat") options.repeat = std::atoi(value.c_str());
    else if (name == "--least_ms") options.least_ms = std::atoi(value.c_str());
    else if (name == "--profile") options.profile = std::atoi(value.c_str());
    else if (name == "--trust") options.trust = std::atoi(value.c_str());
    else if (name == "--info") options.info = std::atoi(value.c_str());
    else fail("unknown option " + name);
  }
  if (argc % 2 == 0 || options.model.empty() || options.inputs.empty()) fail("--model and --inputs are needed");
  if (options.threads < 1 || options.repeat < 1 || options.warmup < 0 || options.least_ms < 0 || options.profile < 0 ||
      options.profile > 2)
    fail("a count is out of range");
  return options;
}

// Ends the program if the model is not the one that is known to be whole.
void check_model(const std::string &program, const std::string &model) {
  const std::string digest = sha256_of_file(model), folder = program.substr(0, program.rfind('/') + 1);
  if (digest.empty()) fail("cannot read " + model);
  char proven[65] = "";
  FILE *file = std::fopen((folder + "proven.sha256").c_str(), "r");
  if (file && std::fscanf(file, "%64s", proven) != 1) proven[0] = 0;
  if (file) std::fclose(file);
  if (digest != proven)
    fail(model + " has the SHA-256 " + digest + (proven[0] ? ", not that of the file which this bundle was made for" : "") +
         ": this runtime does not verify files, and may die of a damaged one. If you trust it, add --trust 1.");
}

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

// Prints a line of /proc/self/status such as VmHWM, in bytes.
long long memory_bytes(const char *field) {
  FILE *file = std::fopen("/proc/self/status", "r");
  char line[256];
  long long kilobytes = -1;
  while (file && std::fgets(line, sizeof line, file))
    if (std::strncmp(line, field, std::strlen(field)) == 0) kilobytes = std::atoll(line + std::strlen(field) + 1);
  if (file) std::fclose(file);
  return kilobytes * 1024;
}

// False at the end of the file; a record cut short is an error.
bool read_record(FILE *file, Runtime &runtime) {
  bool first = true;
  for (auto [data, size] : runtime.inputs()) {
    const size_t got = std::fread(data, 1, size, file);
    if (first && got == 0) return false;
    if (got != size) fail("the inputs file does not hold whole records for this model");
    first = false;
  }
  return !first;
}

double run_once(Runtime &runtime) {
  const auto start = std::chrono::steady_clock::now();
  BEGIN_INFERENCE();
  const std::string error = runtime.run();
  END_INFERENCE();
  const double elapsed = milliseconds_since(start);
  if (!error.empty()) fail(error);
  return elapsed;
}

void print_events(Runtime &runtime) {
  for (const Event &event : runtime.events())
    std::printf("{\"operator\": [\"%s\", %llu, %llu]}\n", escape(event.name).c_str(), (unsigned long long)event.begin,
                (unsigned long long)event.end);
}

void print_info(const char *what, const std::vector<TensorInfo> &tensors) {
  std::printf("{\"%s\": [", what);
  for (size_t i = 0; i < tensors.size(); ++i) {
    std::printf("%s{\"name\": \"%s\", \"dtype\": \"%s\", \"shape\": [", i ? ", " : "", escape(tensors[i].name).c_str(),
                tensors[i].dtype.c_str());
    for (size_t j = 0; j < tensors[i].shape.size(); ++j) std::printf(j ? ", %d" : "%d", int(tensors[i].shape[j]));
    std::printf("]}");
  }
  std::printf("]}\n");
}

void print_memory() {
  std::printf("{\"peak_rss_bytes\": %lld, \"rss_anon_bytes\": %lld}\n", memory_bytes("VmHWM"), memory_bytes("RssAnon"));
}

}  // namespace

// The clock of everything in this process. With `--profile 2` it tells how often it has been read, in microseconds, and
// marks each reading for the instruction counter: what a runtime notes as times of its operators are then numbers of
// readings, between which instructions have been counted.
extern "C" int clock_gettime(clockid_t id, timespec *time) {
  static const auto real = reinterpret_cast<int (*)(clockid_t, timespec *)>(dlsym(RTLD_NEXT, "clock_gettime"));
  if (!counting_readings) return real(id, time);
  static uint64_t readings = 0;
  READING();
  ++readings;
  time->tv_sec = time_t(readings / 1000000), time->tv_nsec = long(readings % 1000000 * 1000);
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 1) return print_memory(), 0;
  const Options options = parse(argc, argv);
  counting_readings = Profile(options.profile) == Profile::kReadings;
  FILE *inputs = std::fopen(options.inputs.c_str(), "rb");
  if (!inputs) fail("cannot open " + options.inputs);
  FILE *outputs = options.outputs.empty() ? nullptr : std::fopen(options.outputs.c_str(), "wb");
  if (!options.outputs.empty() && !outputs) fail("cannot write " + options.outputs);

  auto runtime = make_runtime();
  if (!runtime->verifies_files() && !options.trust) check_model(argv[0], options.model);
  const auto start = std::chrono::steady_clock::now();
  const std::string error = runtime->load(options.model, options.threads, Profile(options.profile));
  if (!error.empty()) fail(error);
  std::printf("{\"load_ms\": %.6f}\n", milliseconds_since(start));

  if (options.info) print_info("takes", runtime->input_info()), print_info("gives", runtime->output_info());

  for (int record = 0; read_record(inputs, *runtime); ++record) {
    for (int i = 0; record == 0 && i < options.warmup; ++i)
      std::printf("{\"warmup_ms\": %.6f}\n", run_once(*runtime));
    double total = 0;
    for (int i = 0; i < options.repeat || total < options.least_ms; ++i) {
      const double elapsed = run_once(*runtime);
      std::printf("{\"sample_ms\": %.6f}\n", elapsed);
      if (options.profile) print_events(*runtime);
      total += elapsed;
    }
    if (!outputs) continue;
    for (auto [data, size] : runtime->outputs())
      if (std::fwrite(data, 1, size, outputs) != size) fail("cannot write " + options.outputs);
  }
  if (outputs && std::fclose(outputs) != 0) fail("cannot write " + options.outputs);
  print_memory();
  return 0;
}
