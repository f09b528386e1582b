package androidx.annotation;

/** Stands for that of AndroidX, which has no behaviour. */
public @interface NonNull {}
