// The native side of dev.edgecomp.EdgecompModel, over the C API. It trusts its callers in that class: handles are open,
// and used by one thread at a time.
#include <jni.h>

#include <cstdio>

#include "../api/edgecomp.h"

namespace {

edgecomp_model *model_of(jlong handle) { return reinterpret_cast<edgecomp_model *>(handle); }

void raise(JNIEnv *env, const char *message) {
  if (jclass type = env->FindClass("dev/edgecomp/EdgecompException")) env->ThrowNew(type, message);
}

// Views of spans, as java.nio.ByteBuffer[]; null, and an exception waits, if there is no memory.
template <typename Span>
jobjectArray views(JNIEnv *env, size_t count, const Span &span) {
  jclass type = env->FindClass("java/nio/ByteBuffer");
  jobjectArray buffers = type ? env->NewObjectArray(jsize(count), type, nullptr) : nullptr;
  for (size_t i = 0; buffers && i < count; ++i) {
    const edgecomp_span bytes = span(i);
    jobject view = env->NewDirectByteBuffer(bytes.data, jlong(bytes.bytes));
    if (!view) return nullptr;
    env->SetObjectArrayElement(buffers, jsize(i), view);
    env->DeleteLocalRef(view);
  }
  return buffers;
}

// "name|dtype|1,3,224,224"; names have no bar in them, or it stays at their end.
jstring described(JNIEnv *env, const edgecomp_tensor &tensor) {
  char text[512];
  int at = std::snprintf(text, 300, "%s|%s|", tensor.name, tensor.dtype);
  if (at < 0 || at >= 300) return env->NewStringUTF("|unknown|");
  for (size_t i = 0; i < tensor.rank && at < 480; ++i)
    at += std::snprintf(text + at, sizeof text - at, i ? ",%d" : "%d", int(tensor.shape[i]));
  return env->NewStringUTF(text);
}

}  // namespace

extern "C" {

JNIEXPORT jlong JNICALL Java_dev_edgecomp_EdgecompModel_nativeLoad(JNIEnv *env, jclass, jstring path, jint threads) {
  const char *const name = env->GetStringUTFChars(path, nullptr);
  if (!name) return 0;
  char error[512];
  edgecomp_model *const model = edgecomp_load(name, threads, error, sizeof error);
  env->ReleaseStringUTFChars(path, name);
  if (!model) raise(env, error);
  return reinterpret_cast<jlong>(model);
}

JNIEXPORT jobjectArray JNICALL Java_dev_edgecomp_EdgecompModel_nativeInfo(JNIEnv *env, jclass, jlong handle,
                                                                         jboolean inputs) {
  edgecomp_model *const model = model_of(handle);
  const size_t count = inputs ? edgecomp_input_count(model) : edgecomp_output_count(model);
  jclass type = env->FindClass("java/lang/String");
  jobjectArray texts = type ? env->NewObjectArray(jsize(count), type, nullptr) : nullptr;
  for (size_t i = 0; texts && i < count; ++i) {
    jstring text = described(env, inputs ? edgecomp_input_info(model, i) : edgecomp_output_info(model, i));
    if (!text) return nullptr;
    env->SetObjectArrayElement(texts, jsize(i), text);
    env->DeleteLocalRef(text);
  }
  return texts;
}

JNIEXPORT jobjectArray JNICALL Java_dev_edgecomp_EdgecompModel_nativeInputs(JNIEnv *env, jclass, jlong handle) {
  edgecomp_model *const model = model_of(handle);
  return views(env, edgecomp_input_count(model), [&](size_t i) { return edgecomp_input(model, i); });
}

JNIEXPORT jobjectArray JNICALL Java_dev_edgecomp_EdgecompModel_nativeRun(JNIEnv *env, jclass, jlong handle) {
  edgecomp_model *const model = model_of(handle);
  if (edgecomp_run(model)) {
    raise(env, edgecomp_error(model));
    return nullptr;
  }
  return views(env, edgecomp_output_count(model), [&](size_t i) { return edgecomp_output(model, i); });
}

// Arrays are copied, not pinned: a pinned one would hold up the garbage collector as long as the model runs.
JNIEXPORT void JNICALL Java_dev_edgecomp_EdgecompModel_nativeRunFloats(JNIEnv *env, jclass, jlong handle,
                                                                       jobjectArray inputs, jobjectArray outputs) {
  edgecomp_model *const model = model_of(handle);
  for (size_t i = 0; i < edgecomp_input_count(model); ++i) {
    const edgecomp_span bytes = edgecomp_input(model, i);
    const auto array = static_cast<jfloatArray>(env->GetObjectArrayElement(inputs, jsize(i)));
    env->GetFloatArrayRegion(array, 0, jsize(bytes.bytes / sizeof(float)), static_cast<jfloat *>(bytes.data));
    if (env->ExceptionCheck()) return;
    env->DeleteLocalRef(array);
  }
  if (edgecomp_run(model)) return raise(env, edgecomp_error(model));
  for (size_t i = 0; i < edgecomp_output_count(model); ++i) {
    const edgecomp_span bytes = edgecomp_output(model, i);
    const jsize count = jsize(bytes.bytes / sizeof(float));
    const jfloatArray array = env->NewFloatArray(count);
    if (!array) return;
    env->SetFloatArrayRegion(array, 0, count, static_cast<const jfloat *>(bytes.data));
    env->SetObjectArrayElement(outputs, jsize(i), array);
    env->DeleteLocalRef(array);
  }
}

JNIEXPORT void JNICALL Java_dev_edgecomp_EdgecompModel_nativeFree(JNIEnv *, jclass, jlong handle) {
  edgecomp_free(model_of(handle));
}
}
