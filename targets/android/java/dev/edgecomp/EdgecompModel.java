package dev.edgecomp;

import android.content.Context;
import androidx.annotation.NonNull;
import java.io.File;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/**
 * A compressed model, ready to run. Open one, keep it, and close it:
 *
 * <pre>{@code
 * try (EdgecompModel model = EdgecompModel.load(context, "model.tflite")) {
 *   float[] scores = model.run(pixels)[0];
 * }
 * }</pre>
 *
 * Threads may share a model: their runs wait for each other. Loading and running take time: neither belongs on the main
 * thread.
 */
public final class EdgecompModel implements AutoCloseable {
  static {
    System.loadLibrary("edgecomp");
  }

  private final List<TensorInfo> inputs;
  private final List<TensorInfo> outputs;
  private long handle; // 0 when closed

  private EdgecompModel(long handle) {
    this.handle = handle;
    inputs = infos(nativeInfo(handle, true));
    outputs = infos(nativeInfo(handle, false));
  }

  /**
   * Loads a model of this module with one thread.
   *
   * @param asset the file in {@code assets/}: {@code model.tflite}
   * @throws EdgecompException there is no such model, it is damaged, or no room is left on the device
   */
  @NonNull
  public static EdgecompModel load(@NonNull Context context, @NonNull String asset) {
    return load(context, asset, 1);
  }

  /**
   * The same with more threads; of ExecuTorch's models the first one decides for all. The file is copied out of the APK
   * once, for runtimes map files, and an asset lies anywhere in its APK.
   */
  @NonNull
  public static EdgecompModel load(@NonNull Context context, @NonNull String asset, int threads) {
    return opened(ModelFiles.of(context, asset), threads);
  }

  /**
   * Loads a model from a file, whose SHA-256 is in another file of its name and {@code .sha256}.
   *
   * @throws EdgecompException there is no such model, or it is damaged
   */
  @NonNull
  public static EdgecompModel load(@NonNull File file, int threads) {
    return opened(ModelFiles.proven(file), threads);
  }

  private static EdgecompModel opened(File file, int threads) {
    if (threads < 1) throw new IllegalArgumentException("threads must be 1 or more, not " + threads);
    return new EdgecompModel(nativeLoad(file.getPath(), threads));
  }

  /** What the model takes, in the order of {@code run}. */
  @NonNull
  public List<TensorInfo> getInputs() {
    return inputs;
  }

  /** What it gives. */
  @NonNull
  public List<TensorInfo> getOutputs() {
    return outputs;
  }

  /**
   * Runs a model whose inputs and outputs are float32.
   *
   * @param values of each input, row-major
   * @return those of each output
   * @throws IllegalArgumentException too many or too few of them, or an input that is not float32
   * @throws IllegalStateException the model is closed
   * @throws EdgecompException it does not run
   */
  @NonNull
  public synchronized float[][] run(@NonNull float[]... values) {
    requireOpen(values.length);
    for (int i = 0; i < values.length; i++) {
      requireFloats(inputs.get(i));
      requireSize(inputs.get(i), 4L * values[i].length, 4L * inputs.get(i).getCount());
    }
    for (TensorInfo output : outputs) requireFloats(output);
    float[][] results = new float[outputs.size()][];
    nativeRunFloats(handle, values, results);
    return results;
  }

  /**
   * Runs any model.
   *
   * @param values the bytes of each input between position and limit, in native order
   * @return the bytes of each output, in native order
   * @throws IllegalArgumentException too many or too few of them
   * @throws IllegalStateException the model is closed
   * @throws EdgecompException it does not run
   */
  @NonNull
  public synchronized ByteBuffer[] run(@NonNull ByteBuffer... values) {
    requireOpen(values.length);
    ByteBuffer[] given = nativeInputs(handle); // the model's own
    for (int i = 0; i < values.length; i++)
      requireSize(inputs.get(i), values[i].remaining(), given[i].capacity());
    for (int i = 0; i < values.length; i++) given[i].put(values[i].duplicate());
    ByteBuffer[] made = nativeRun(handle);
    ByteBuffer[] results = new ByteBuffer[made.length];
    for (int i = 0; i < made.length; i++) { // those of the model change with the next run, and are gone with it
      results[i] = ByteBuffer.allocateDirect(made[i].capacity()).order(ByteOrder.nativeOrder());
      results[i].put(made[i]).rewind();
    }
    return results;
  }

  /** Frees the model's memory; once is enough, twice does no harm. */
  @Override
  public synchronized void close() {
    if (handle != 0) nativeFree(handle);
    handle = 0;
  }

  private void requireOpen(int count) {
    if (handle == 0) throw new IllegalStateException("the model is closed");
    if (count != inputs.size())
      throw new IllegalArgumentException("the model takes " + inputs.size() + " inputs, not " + count + ": " + inputs);
  }

  private static void requireFloats(TensorInfo tensor) {
    if (!tensor.getDtype().equals("float32"))
      throw new IllegalArgumentException(tensor + " is not float32: use run(ByteBuffer...)");
  }

  private static void requireSize(TensorInfo tensor, long bytes, long wanted) {
    if (bytes != wanted)
      throw new IllegalArgumentException(tensor + " takes " + wanted + " bytes, not " + bytes);
  }

  private static List<TensorInfo> infos(String[] texts) {
    List<TensorInfo> found = new ArrayList<>();
    for (String text : texts) found.add(TensorInfo.parse(text));
    return Collections.unmodifiableList(found);
  }

  private static native long nativeLoad(String path, int threads);

  private static native String[] nativeInfo(long handle, boolean inputs);

  private static native ByteBuffer[] nativeInputs(long handle);

  private static native ByteBuffer[] nativeRun(long handle);

  /** In one call: crossing to native code and back costs as much as a small layer. */
  private static native void nativeRunFloats(long handle, float[][] inputs, float[][] outputs);

  private static native void nativeFree(long handle);
}
