package dev.edgecomp;

import androidx.annotation.NonNull;
import java.util.Arrays;

/** What a model takes or gives. */
public final class TensorInfo {
  private final String name;
  private final String dtype;
  private final int[] shape;
  private final int count;

  TensorInfo(String name, String dtype, int[] shape) {
    this.name = name;
    this.dtype = dtype;
    this.shape = shape;
    count = Arrays.stream(shape).reduce(1, Math::multiplyExact);
  }

  /** Of the native side: {@code name|dtype|1,3,224,224}. */
  static TensorInfo parse(String text) {
    int last = text.lastIndexOf('|');
    int first = text.lastIndexOf('|', last - 1);
    String sizes = text.substring(last + 1);
    int[] shape = sizes.isEmpty() ? new int[0] : Arrays.stream(sizes.split(",")).mapToInt(Integer::parseInt).toArray();
    return new TensorInfo(text.substring(0, first), text.substring(first + 1, last), shape);
  }

  /** The name in the file, or "" where it keeps none, as a .pte does. */
  @NonNull
  public String getName() {
    return name;
  }

  /** Of the values, as numpy calls it: {@code float32}, {@code int64}, {@code bool}. */
  @NonNull
  public String getDtype() {
    return dtype;
  }

  /** The size of every dimension, that of the batch among them. */
  @NonNull
  public int[] getShape() {
    return shape.clone();
  }

  /** How many values there are. */
  public int getCount() {
    return count;
  }

  @NonNull
  @Override
  public String toString() {
    return (name.isEmpty() ? "tensor" : name) + ": " + dtype + " " + Arrays.toString(shape);
  }
}
