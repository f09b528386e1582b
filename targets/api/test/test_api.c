/* The C API as an app in C uses it, right and wrong: test_api MODEL DAMAGED. Prints what is not as the header says. */
#include <stdio.h>
#include <string.h>

#include "../edgecomp.h"

static int failures = 0;

static void expect(int condition, const char *what) {
  if (!condition) ++failures, printf("%s\n", what);
}

static void expect_refused(const char *path, int threads, const char *reason) {
  char why[256] = "";
  expect(edgecomp_load(path, threads, why, sizeof why) == NULL, "a model that cannot be loaded is loaded");
  expect(strstr(why, reason) != NULL, why);
}

static void expect_runs(edgecomp_model *model) {
  const edgecomp_span x = edgecomp_input(model, 0);
  size_t elements = 1;
  const edgecomp_tensor info = edgecomp_input_info(model, 0);
  for (size_t i = 0; i < info.rank; ++i) elements *= (size_t)info.shape[i];
  expect(strcmp(info.dtype, "float32") == 0 && x.bytes == 4 * elements, "the input is not what it is said to be");
  memset(x.data, 0, x.bytes);
  expect(edgecomp_output(model, 0).data == NULL, "an output before the first run");
  for (int n = 0; n < 3; ++n) expect(edgecomp_run(model) == 0 && !edgecomp_error(model)[0], edgecomp_error(model));
  const edgecomp_span y = edgecomp_output(model, 0);
  expect(y.data && y.bytes >= sizeof(float), "no output after a run");
  float first = 0;
  if (y.data) memcpy(&first, y.data, sizeof first);
  expect(first == first, "an output is not a number");
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  expect_refused(NULL, 1, "no path");
  expect_refused("/nowhere/model", 1, "/nowhere/model");
  expect_refused(argv[1], 0, "threads");
  expect_refused(argv[2], 1, argv[2]);
  char two[2];
  expect(edgecomp_load("/nowhere/model", 1, two, sizeof two) == NULL && two[1] == 0, "an error is not cut to its size");
  expect(edgecomp_load("/nowhere/model", 1, NULL, 0) == NULL, "an error that nobody wants");
  for (int n = 0; n < 20; ++n) {
    edgecomp_model *const model = edgecomp_load(argv[1], 1 + n % 2, NULL, 0);
    expect(model != NULL, "the model is not loaded");
    if (!model) break;
    expect(edgecomp_input_count(model) == 1 && edgecomp_output_count(model) == 1, "not one input and one output");
    expect(edgecomp_input(model, 1).data == NULL && edgecomp_input_info(model, 1).rank == 0, "a second input");
    expect_runs(model);
    expect(edgecomp_output(model, 1).data == NULL && edgecomp_output_info(model, 1).rank == 0, "a second output");
    edgecomp_free(model);
  }
  edgecomp_free(NULL);
  printf("%d failures\n", failures);
  return failures != 0;
}
