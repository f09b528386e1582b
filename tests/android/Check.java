import android.content.Context;
import dev.edgecomp.EdgecompModel;
import dev.edgecomp.TensorInfo;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;

/** What an app does and what it may do wrong, with a module's classes in a JVM. Prints what came of it. */
public final class Check {
  public static void main(String[] arguments) throws Exception {
    File assets = new File(arguments[1]);
    File files = new File(arguments[2]);
    String asset = arguments[3];
    Context context = new Context(assets, files);
    switch (arguments[0]) {
      case "run" -> run(context, asset, Path.of(arguments[4]), Path.of(arguments[5]));
      case "misuse" -> misuse(context, assets, files, asset);
      case "threads" -> threads(context, asset);
      case "leak" -> leak(context, asset, Integer.parseInt(arguments[4]));
      case "time" -> time(context, asset, Path.of(arguments[4]), Integer.parseInt(arguments[5]));
      default -> throw new IllegalArgumentException(arguments[0]);
    }
  }

  private static float[] random(EdgecompModel model) {
    float[] values = new float[model.getInputs().get(0).getCount()];
    java.util.Random random = new java.util.Random(5);
    for (int i = 0; i < values.length; i++) values[i] = (float) random.nextGaussian();
    return values;
  }

  /** The outputs of records, as the bench program reads and writes them; twice, by bytes and by floats. */
  private static void run(Context context, String asset, Path inputs, Path outputs) throws IOException {
    try (EdgecompModel model = EdgecompModel.load(context, asset);
        FileOutputStream out = new FileOutputStream(outputs.toFile())) {
      for (TensorInfo tensor : model.getInputs()) System.out.println("takes " + tensor);
      for (TensorInfo tensor : model.getOutputs()) System.out.println("gives " + tensor);
      ByteBuffer all = ByteBuffer.wrap(Files.readAllBytes(inputs)).order(ByteOrder.nativeOrder());
      int size = 4 * model.getInputs().get(0).getCount();
      for (int at = 0; at < all.capacity(); at += size) {
        ByteBuffer record = all.duplicate().order(ByteOrder.nativeOrder());
        record.position(at).limit(at + size);
        float[] values = new float[size / 4];
        record.slice().order(ByteOrder.nativeOrder()).asFloatBuffer().get(values);
        float[] floats = model.run(values)[0];
        ByteBuffer bytes = model.run(record)[0];
        float[] same = new float[floats.length];
        bytes.asFloatBuffer().get(same);
        if (!Arrays.equals(floats, same)) throw new AssertionError("floats and bytes differ");
        byte[] raw = new byte[bytes.remaining()];
        bytes.get(raw);
        out.write(raw);
      }
    }
  }

  private static void misuse(Context context, File assets, File files, String asset) throws IOException {
    EdgecompModel model = EdgecompModel.load(context, asset);
    float[] values = random(model);
    tell("too few inputs", () -> model.run(new float[0][]));
    tell("a wrong size", () -> model.run(new float[3]));
    tell("wrong bytes", () -> model.run(ByteBuffer.allocate(3)));
    tell("no threads", () -> EdgecompModel.load(context, asset, 0));
    model.run(values);
    model.close();
    model.close();
    tell("closed", () -> model.run(values));
    tell("a missing asset", () -> EdgecompModel.load(context, "none.tflite"));
    tell("a missing file", () -> EdgecompModel.load(new File(assets, "none.tflite"), 1));
    byte[] bytes = Files.readAllBytes(assets.toPath().resolve(asset));
    Path damaged = assets.toPath().resolve("damaged.bin");
    bytes[bytes.length / 2] ^= 1;
    Files.write(damaged, bytes);
    Files.copy(assets.toPath().resolve(asset + ".sha256"), assets.toPath().resolve("damaged.bin.sha256"));
    tell("a damaged asset", () -> EdgecompModel.load(context, "damaged.bin"));
    tell("a damaged file", () -> EdgecompModel.load(damaged.toFile(), 1));
    Path other = assets.toPath().resolve("other.bin"); // whole, but no model
    Files.write(other, "no model at all, but long enough to be one".repeat(9).getBytes());
    Files.write(assets.toPath().resolve("other.bin.sha256"), digest(other).getBytes());
    tell("no model", () -> EdgecompModel.load(other.toFile(), 1));
    File kept = new File(new File(files, "edgecomp"), asset);
    System.out.println("kept " + kept.list().length);
  }

  private static String digest(Path path) throws IOException {
    try {
      byte[] digest = java.security.MessageDigest.getInstance("SHA-256").digest(Files.readAllBytes(path));
      return String.format("%064x", new java.math.BigInteger(1, digest));
    } catch (java.security.NoSuchAlgorithmException error) {
      throw new AssertionError(error);
    }
  }

  private static void tell(String what, Runnable call) {
    try {
      call.run();
      System.out.println(what + ": nothing");
    } catch (RuntimeException error) {
      System.out.println(what + ": " + error.getClass().getSimpleName() + ": " + error.getMessage());
    }
  }

  /** Two threads with one model, and each with one of its own: all are right. */
  private static void threads(Context context, String asset) throws Exception {
    try (EdgecompModel shared = EdgecompModel.load(context, asset, 2)) {
      float[] values = random(shared);
      float[] expected = shared.run(values)[0];
      Thread[] threads = new Thread[4];
      int[] wrong = new int[threads.length];
      for (int i = 0; i < threads.length; i++) {
        final int at = i;
        threads[i] = new Thread(() -> {
          try (EdgecompModel own = EdgecompModel.load(context, asset)) {
            for (int n = 0; n < 50; n++) {
              if (!Arrays.equals((at % 2 == 0 ? shared : own).run(values)[0], expected)) wrong[at]++;
            }
          }
        });
        threads[i].start();
      }
      for (Thread thread : threads) thread.join();
      System.out.println("wrong " + Arrays.stream(wrong).sum());
    }
  }

  private static void leak(Context context, String asset, int loads) throws IOException {
    long before = 0;
    for (int n = 0; n < loads; n++) {
      try (EdgecompModel model = EdgecompModel.load(context, asset)) {
        model.run(random(model));
      }
      if (n == loads / 4) before = resident();
    }
    System.out.println("grown " + (resident() - before));
  }

  /** Bytes of this process in memory. */
  private static long resident() throws IOException {
    System.gc();
    for (String line : Files.readAllLines(Path.of("/proc/self/status")))
      if (line.startsWith("VmRSS")) return 1024 * Long.parseLong(line.replaceAll("\\D", ""));
    throw new IOException("no VmRSS");
  }

  /** Milliseconds of a run: the median of some seconds, after as many for the JVM's compiler. */
  private static void time(Context context, String asset, Path file, int seconds) throws IOException {
    ByteBuffer bytes = ByteBuffer.wrap(Files.readAllBytes(file)).order(ByteOrder.nativeOrder());
    try (EdgecompModel model = EdgecompModel.load(context, asset)) {
      float[][] values = new float[model.getInputs().size()][];
      for (int i = 0; i < values.length; i++) {
        values[i] = new float[model.getInputs().get(i).getCount()];
        for (int j = 0; j < values[i].length; j++) values[i][j] = bytes.getFloat();
      }
      times(model, values, seconds);
      double[] times = times(model, values, seconds);
      Arrays.sort(times);
      System.out.println("median " + times[times.length / 2]);
    }
  }

  private static double[] times(EdgecompModel model, float[][] values, int seconds) {
    double[] times = new double[1 << 20];
    long end = System.nanoTime() + seconds * 1_000_000_000L;
    int count = 0;
    while (count < times.length && System.nanoTime() < end) {
      long start = System.nanoTime();
      model.run(values);
      times[count++] = (System.nanoTime() - start) / 1e6;
    }
    return Arrays.copyOf(times, count);
  }
}
